"""A load balancer as operators have one: another server is tried where one does not answer a connection at all."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence

CHUNK = 1 << 16
# How long connections may take to end when their clients have closed them.
END_S = 10


class Balancer:
    """Spreads connections evenly over servers that listen on those loopback ports."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.connections: set[asyncio.Task[None] | None] = set()
        self._turn = itertools.cycle(range(len(ports)))
        self._ports = ports

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to whichever server answers it."""
        self.connections.add(asyncio.current_task())
        asked = bytearray(await reader.read(CHUNK))
        first = next(self._turn)
        with contextlib.closing(writer):
            for port in (*self._ports[first:], *self._ports[:first]):
                if await _through(port, asked, reader, writer):
                    return


async def _through(port: int, asked: bytearray, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Carry bytes both ways until the server is done; False where it said nothing."""
    try:
        there, back = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    with contextlib.closing(back):
        back.write(asked)
        sending = asyncio.create_task(_send(reader, back))
        try:
            return await _carry(there, writer)
        finally:
            sending.cancel()
            await asyncio.wait({sending})


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    carried = False
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
            carried = True
    return carried


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _carry(reader, writer)
    with contextlib.suppress(OSError):
        writer.write_eof()


@contextlib.asynccontextmanager
async def balanced(*ports: int) -> AsyncIterator[str]:
    """The address, as host:port, of a balancer over servers on those ports."""
    balancer = Balancer(ports)
    async with await asyncio.start_server(balancer.serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
    async with asyncio.timeout(END_S):
        await asyncio.gather(*filter(None, balancer.connections))
