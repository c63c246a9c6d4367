"""The proxy against a plain server: each fault is what it is called."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

import pytest

from tests.faults.proxy import Loss, Proxy
from tests.waiting import until_async

pytestmark = pytest.mark.anyio

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """A server that sends back what it reads. chunks: all of it, as it came. talking: connections that stand."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.talking = 0

    @property
    def heard(self) -> bytes:
        return b"".join(self.chunks)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.talking += 1
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(1000):
                self.chunks.append(data)
                writer.write(data)
        writer.close()
        self.talking -= 1


@contextlib.asynccontextmanager
async def echoing(echo: Echo) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    async with server:
        async with Proxy(server.sockets[0].getsockname()[1]) as proxy:
            yield proxy
        await until_async(lambda: not echo.talking)


_writers: list[asyncio.StreamWriter] = []


@pytest.fixture(autouse=True)
async def _close() -> AsyncIterator[None]:
    yield
    for writer in _writers:
        writer.close()
    _writers.clear()


async def connect(proxy: Proxy) -> Ends:
    host, port = proxy.url.removeprefix("redis://").removesuffix("/0").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _writers.append(writer)
    return reader, writer


async def ask(ends: Ends, data: bytes) -> bytes:
    ends[1].write(data)
    return await ends[0].readexactly(len(data))


async def test_bytes_pass_in_both_directions() -> None:
    async with echoing(Echo()) as proxy:
        assert await ask(await connect(proxy), b"ping") == b"ping"


async def test_delay() -> None:
    async with echoing(Echo()) as proxy:
        ends = await connect(proxy)
        proxy.delay_s = 0.05
        began = time.monotonic()
        assert await ask(ends, b"ping") == b"ping"
        assert time.monotonic() - began >= 0.1


async def test_one_byte_at_a_time() -> None:
    echo = Echo()
    async with echoing(echo) as proxy:
        ends = await connect(proxy)
        proxy.bytewise = True
        assert await ask(ends, bytes(1000)) == bytes(1000)
        assert len(echo.chunks) > 1


async def test_what_falls_into_a_black_hole_arrives_after_it() -> None:
    echo = Echo()
    async with echoing(echo) as proxy:
        old = await connect(proxy)
        with proxy.black_hole():
            new = await connect(proxy)
            for ends in (old, new):
                ends[1].write(b"ping")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await ends[0].read(1)
            assert echo.heard == b""
        assert [await ends[0].readexactly(4) for ends in (old, new)] == [b"ping", b"ping"]


async def test_reset() -> None:
    async with echoing(Echo()) as proxy:
        ends = await connect(proxy)
        await ask(ends, b"ping")
        assert proxy.reset() == 1
        with pytest.raises(ConnectionResetError):
            await ends[0].read(1)


async def test_reset_of_subscriptions_only() -> None:
    async with echoing(Echo()) as proxy:
        plain, subscribed = await connect(proxy), await connect(proxy)
        await ask(plain, b"ping")
        await ask(subscribed, b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n")
        assert proxy.reset(subscriptions_only=True) == 1
        with pytest.raises(ConnectionResetError):
            await subscribed[0].read(1)
        assert await ask(plain, b"ping") == b"ping"


async def test_a_half_closed_link_still_takes_what_is_sent() -> None:
    echo = Echo()
    async with echoing(echo) as proxy:
        ends = await connect(proxy)
        await ask(ends, b"ping")
        proxy.half_close()
        assert await ends[0].read() == b""
        ends[1].write(b"pong")
        await until_async(lambda: echo.heard == b"pingpong")


@pytest.mark.parametrize(("after", "seen"), [(0, b""), (2, b"po")])
async def test_a_reply_is_lost_after_some_bytes(after: int, seen: bytes) -> None:
    # given a link whose second reply will be lost
    echo = Echo()
    async with echoing(echo) as proxy:
        ends = await connect(proxy)
        proxy.lose(Loss(2, after=after))
        assert await ask(ends, b"ping") == b"ping"
        # when it is
        ends[1].write(b"pong")
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while data := await ends[0].read(1):
                got += data
        # then the request has arrived, the start of the reply at most, and new connections are whole
        assert (echo.heard, seen[: len(got)]) == (b"pingpong", got)
        assert await ask(await connect(proxy), b"more") == b"more"


async def test_the_reply_to_a_word_is_lost_once() -> None:
    # given a link, and a word whose reply is to be lost
    echo = Echo()
    async with echoing(echo) as proxy:
        ends = await connect(proxy)
        proxy.lose_replies_to([b"pong", b"never"])
        assert await ask(ends, b"ping") == b"ping"
        # when it is said
        ends[1].write(b"a pong")
        with pytest.raises(ConnectionResetError):
            await ends[0].read(1)
        # then it was heard, and the next time it is answered
        assert (echo.heard, proxy.lost) == (b"pinga pong", {b"pong"})
        assert await ask(await connect(proxy), b"a pong") == b"a pong"


async def test_a_server_that_is_away_looks_like_a_broken_connection() -> None:
    async with echoing(Echo()) as proxy:
        pass
    async with Proxy(1) as proxy:
        ends = await connect(proxy)
        with pytest.raises(ConnectionResetError):
            await ends[0].read(1)
