"""Heads that come slowly, are too large, or are no handshake, and bodies that nobody reads, over real sockets."""

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed

from gateway.bodies import REQUEST_TIMEOUT_S
from tests.gateway.conftest import Serve, Served
from tests.gateway.player import Player
from tests.services import Gateway
from tests.valkey import Valkey
from tests.waiting import until_closed

pytestmark = pytest.mark.anyio

LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = b"inputs=hi&max_new_tokens=1"
GENERATE = (
    b"POST /api/v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.heads.HEAD_TIMEOUT_S", 0.2)


UPLOAD = b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
LINE = b"X-More: " + b"x" * 1000 + b"\r\n"
Fields = dict[str, str | None]
HANDSHAKE: Fields = {
    "Host": "x",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def handshake(fields: Fields | None = None) -> bytes:
    """A head that asks for a WebSocket, with these fields instead of the right ones; None leaves one out."""
    given = HANDSHAKE | (fields or {})
    lines = [f"{name}: {value}\r\n" for name, value in given.items() if value is not None]
    return ("GET /api/v2/generate HTTP/1.1\r\n" + "".join(lines) + "\r\n").encode()


TOO_MANY: Fields = {f"X-{number}": "x" for number in range(128)}


@contextlib.asynccontextmanager
async def connect(gateway: Served) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A plain connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.client.base_url.port)
    with contextlib.closing(writer):
        yield reader, writer


@pytest.mark.usefixtures("short_timeout")
@pytest.mark.parametrize("before", [b"", LIVE], ids=["first request", "second request"])
async def test_half_a_head_is_waited_for_a_short_time_only(gateway: Served, before: bytes) -> None:
    async with connect(gateway) as (reader, writer):
        writer.write(before)
        if before:
            await reader.readuntil(b'{"ok":true}')
        writer.write(b"GET / HTTP/1.1\r\nHost: ")
        assert await until_closed(reader) == b""


@pytest.mark.usefixtures("short_timeout")
async def test_an_answer_may_take_longer(gateway: Served, player: Player) -> None:
    async with connect(gateway) as (reader, writer):
        writer.write(GENERATE + GENERATE)
        for text in ("one", "two"):
            performance = await player.take()
            await asyncio.sleep(0.3)
            await performance.finish(text)
            await reader.readuntil(b'{"ok":true,"outputs":"%s"}' % text.encode())


async def status(reader: asyncio.StreamReader) -> int:
    """The status of an answer that is read to its end."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length
    await reader.readexactly(int(length[1]))
    return int(head.split()[1])


async def go_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What comes while the head goes on, a line at a time, so that an answer finds nothing unread: that would reset
    the connection."""
    answer = asyncio.create_task(reader.read())
    while not answer.done():
        await asyncio.wait({answer}, timeout=0.02)
        writer.write(LINE)
    return answer.result()


async def test_a_head_without_end(gateway: Served) -> None:
    async with connect(gateway) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n" + 70 * LINE)
        assert (await go_on(reader, writer)).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


async def test_a_head_without_end_while_another_request_is_answered(gateway: Served, player: Player) -> None:
    async with connect(gateway) as (reader, writer):
        writer.write(GENERATE)
        performance = await player.take()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n" + 70 * LINE)
        # nothing but a close can be said while an answer is under way, which nobody reads then
        assert await go_on(reader, writer) == b""
        await performance.until_cancelled()


async def test_requests_without_end_while_one_is_answered(gateway: Served, player: Player) -> None:
    async with connect(gateway) as (reader, writer):
        writer.write(GENERATE)
        performance = await player.take()
        writer.write(LIVE * 20)
        assert await reader.read() == b""
        await performance.until_cancelled()


async def test_head_and_body_have_one_time(gateway: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.heads.REQUEST_TIMEOUT_S", 0.3)
    async with connect(gateway) as (reader, writer):
        # given a head that begins, as is known once the request that came with its beginning is answered
        writer.write(LIVE + GENERATE[:20])
        await reader.readuntil(b'{"ok":true}')
        # when it ends, at a time from which a request would have for ever
        monkeypatch.setattr("gateway.heads.REQUEST_TIMEOUT_S", 1000.0)
        writer.write(GENERATE[20:-1])
        # then its body is late all the same
        assert b'"traceback":"ValueError: The request did not arrive within' in await reader.read()


async def test_a_request_has_its_own_time_after_others(
    gateway: Served, player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.heads.REQUEST_TIMEOUT_S", 0.3)
    async with connect(gateway) as (reader, writer):
        # given a request that waits for another one's answer longer than that
        writer.write(GENERATE + GENERATE[:-1])
        for text, rest in (("one", GENERATE[-1:]), ("two", b"")):
            performance = await player.take()
            await asyncio.sleep(0.4)
            monkeypatch.setattr("gateway.heads.REQUEST_TIMEOUT_S", REQUEST_TIMEOUT_S)
            await performance.finish(text)
            await reader.readuntil(b'{"ok":true,"outputs":"%s"}' % text.encode())
            writer.write(rest)


@pytest.mark.usefixtures("short_timeout")
@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_a_refused_upload_is_read_to_its_end(serve: Serve, size: int) -> None:
    async with serve(auth="on", key_pepper="p" * 32) as gateway, connect(gateway) as (reader, writer):
        for _ in range(2):
            writer.write(UPLOAD % size)
            assert await status(reader) == 401
            # when it comes after the answer, and takes longer than a head may
            writer.write(b"x" * (size // 2))
            await asyncio.sleep(0.3)
            writer.write(b"x" * (size - size // 2))
            await writer.drain()
        # then the connection can still be used
        writer.write(LIVE)
        assert await status(reader) == 200


async def test_a_refused_upload_that_does_not_go_on(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.heads.WASTE_TIMEOUT_S", 0.2)
    async with serve(auth="on", key_pepper="p" * 32) as gateway, connect(gateway) as (reader, writer):
        writer.write(UPLOAD % 1_000_000 + b"x" * 20_000)
        rest = asyncio.create_task(until_closed(reader))
        while not rest.done():
            await asyncio.wait({rest}, timeout=0.05)
            writer.write(b"x")
        assert rest.result().count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"X-Long": "x" * 8200}, 431),
        (TOO_MANY, 431),
        ({"Content-Length": "5"}, 400),
        ({"Transfer-Encoding": "chunked"}, 400),
        ({"Sec-WebSocket-Version": "12"}, 400),
        ({"Sec-WebSocket-Version": None}, 400),
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Sec-WebSocket-Key": "AAAA"}, 400),
        ({"Sec-WebSocket-Key": "???"}, 400),
        ({"Upgrade": "websocket, h2c"}, 404),
        ({"Upgrade": "h2c"}, 404),
        ({"Connection": "close"}, 404),
    ],
    ids=lambda value: ",".join(value)[:40] if isinstance(value, dict) else str(value),
)
async def test_a_handshake_that_is_none(gateway: Served, fields: Fields, status: int) -> None:
    async with connect(gateway) as (reader, writer):
        writer.write(handshake(fields) + (b"0\r\n\r\n" if "Transfer-Encoding" in fields else b""))
        async with asyncio.timeout(30):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert answer.count(b"HTTP/1.1") == 1


async def test_a_path_that_is_too_long_for_a_handshake(gateway: Served) -> None:
    async with connect(gateway) as (reader, writer):
        writer.write(handshake().replace(b"/generate", b"/generate?" + b"x" * 8200))
        async with asyncio.timeout(30):
            assert (await reader.read()).startswith(b"HTTP/1.1 414 ")


async def test_a_handshake_while_another_request_is_answered(gateway: Served, player: Player) -> None:
    async with connect(gateway) as (reader, writer):
        writer.write(GENERATE)
        performance = await player.take()
        writer.write(handshake())
        assert await reader.read() == b""
        await performance.until_cancelled()


@pytest.mark.usefixtures("short_timeout")
async def test_a_websocket_is_no_head_that_is_late(gateway: Served) -> None:
    async with open_websocket(gateway.ws_url) as socket:
        await asyncio.sleep(0.3)
        await socket.ping()


@pytest.fixture
def process(tmp_path: Path, valkey: Valkey) -> Iterator[Gateway]:
    """A gateway that can be told to stop."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text('[[families]]\nname = "X"\n[[families.models]]\nrepository = "x/x"\nname = "X"\n')
    gateway = Gateway(tmp_path / "gateway.log", valkey.url, catalog)
    gateway.start()
    yield gateway
    gateway.kill()


async def test_odd_handshakes_do_not_hold_up_the_end(process: Gateway) -> None:
    # given sockets whose clients wait after what they sent
    odd = []
    for head in (handshake(TOO_MANY), handshake({"X-Long": "x" * 8200}), handshake()[:-2], GENERATE[:20]):
        odd.append((await asyncio.open_connection("127.0.0.1", process.port))[1])
        odd[-1].write(head)
    async with open_websocket(process.ws_url) as socket:
        # when the gateway is told to stop
        process.send(signal.SIGTERM)
        # then others are told as ever, and it ends in order
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert process.process is not None
    assert await asyncio.to_thread(process.process.wait, 20) == 0
    assert {line["event"] for line in process.lines()} <= {"ready", "request", "job"}
    for writer in odd:
        writer.close()
