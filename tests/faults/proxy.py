"""A TCP proxy before the broker that spoils the link in every way in which a network does."""

import asyncio
import contextlib
import dataclasses
import socket
import struct
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Self

CHUNK_BYTES = 1 << 16
# SO_LINGER with no time to linger: close() sends RST instead of FIN.
RESET = struct.pack("ii", 1, 0)


@dataclasses.dataclass(frozen=True)
class Loss:
    """The replies number `first` to `first + count - 1` from now on are cut off after `after` bytes, and their
    connections reset: what was asked has happened, but nobody hears of it."""

    first: int
    count: int = 1
    after: int = 0


class Proxy:
    """Passes bytes between its own port and another one on loopback, as long as the `async with` block runs.

    delay_s: how long each chunk is held, in both directions. bytewise: one byte at a time.
    replies: chunks that came from the server on connections without a subscription, since the last `lose`.
    lost: of the words of `lose_replies_to`, those whose reply was lost.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._open = asyncio.Event()
        self._open.set()
        self._loss = Loss(0, 0)
        self.delay_s = 0.0
        self.bytewise = False
        self.replies = 0
        self._doomed: set[bytes] = set()
        self.lost: set[bytes] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._links:
            task.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    @property
    def url(self) -> str:
        """Where Redis is, for those who are to go through the proxy."""
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def reset(self, subscriptions_only: bool = False) -> int:
        """Break connections with a TCP reset, all or those that have subscribed; how many."""
        broken = [link for link in self._links.values() if link.subscribed or not subscriptions_only]
        for link in broken:
            link.reset()
        return len(broken)

    def half_close(self) -> None:
        """Send the end of the stream to all clients; what they send still arrives."""
        for link in self._links.values():
            link.half_close()

    @contextlib.contextmanager
    def black_hole(self) -> Iterator[None]:
        """Nothing gets through, as if the cable were out: it arrives afterwards, as TCP sends it again. New connections
        stand but get no answer."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def heal(self) -> None:
        """Be a plain link again."""
        self.delay_s, self.bytewise = 0.0, False
        self._loss = Loss(0, 0)
        self._doomed.clear()
        self._open.set()

    def lose(self, loss: Loss) -> None:
        """Lose replies, counted from now."""
        self._loss, self.replies = loss, 0

    def lose_replies_to(self, words: Iterable[bytes]) -> None:
        """Lose the reply to the next request that has such a word in it, once for each of them."""
        self._doomed, self.lost = set(words), set()

    def dooms(self, request: bytes) -> bool:
        """Whether the reply to this request is to be lost."""
        found = {word for word in self._doomed if word in request}
        self._doomed -= found
        self.lost |= found
        return bool(found)

    async def through(self, data: bytes, reply: bool) -> AsyncIterator[bytes]:
        """The pieces of a chunk, each when it is to be passed on. Raises ConnectionResetError where it is lost."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        self.replies += reply
        lost = reply and self._loss.first <= self.replies < self._loss.first + self._loss.count
        data = data[: self._loss.after] if lost else data
        for piece in (data[index : index + 1] for index in range(len(data))) if self.bytewise else (data,):
            await self._open.wait()
            yield piece
            if self.bytewise:
                await asyncio.sleep(0)
        if lost:
            raise ConnectionResetError

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, writer)
        task = asyncio.create_task(link.run(reader, self._target))
        self._links[task] = link
        task.add_done_callback(self._links.pop)

    async def opened(self) -> None:
        """Return when something gets through."""
        await self._open.wait()


class _Link:
    """One connection through the proxy: `near` is the client's side, `far` the server's."""

    def __init__(self, proxy: Proxy, near: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._near = near
        self._far: asyncio.StreamWriter | None = None
        self._halved = False
        self._doomed = False
        self.subscribed = False

    async def run(self, near: asyncio.StreamReader, port: int) -> None:
        """Pass bytes on until either side ends or the link is reset."""
        pumps: list[asyncio.Task[None]] = []
        try:
            await self._proxy.opened()
            far, self._far = await asyncio.open_connection("127.0.0.1", port)
            pumps += [asyncio.create_task(self._requests(near, self._far)), asyncio.create_task(self._replies(far))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the server is away: to the client that is a broken connection
        finally:
            self.reset()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    def reset(self) -> None:
        """Break it on both sides."""
        _abort(self._near)
        if self._far is not None:
            _abort(self._far)

    def half_close(self) -> None:
        """End the direction to the client."""
        self._halved = True
        self._near.write_eof()

    async def _requests(self, near: asyncio.StreamReader, far: asyncio.StreamWriter) -> None:
        while data := await near.read(CHUNK_BYTES):
            self.subscribed = self.subscribed or b"\r\nSUBSCRIBE\r\n" in data
            self._doomed = self._proxy.dooms(data)
            async for piece in self._proxy.through(data, reply=False):
                await _send(far, piece)

    async def _replies(self, far: asyncio.StreamReader) -> None:
        while (data := await far.read(CHUNK_BYTES)) and not self._doomed:
            async for piece in self._proxy.through(data, reply=not self.subscribed):
                if not self._halved:
                    await _send(self._near, piece)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def _abort(writer: asyncio.StreamWriter) -> None:
    end = writer.get_extra_info("socket")
    if not writer.transport.is_closing() and end is not None:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
