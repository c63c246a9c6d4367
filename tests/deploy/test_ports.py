import asyncio
import os
import socket
from collections.abc import Iterator

import psutil
import pytest

from deploy import ports


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that listens on a port of its own."""
    with socket.create_server((ports.HOST, 0)) as listener:
        yield listener


def test_a_port_that_somebody_listens_on_is_not_free(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert not ports.is_free(port)
    assert ports.first_free(port) > port
    assert ports.holder(port) == f"{psutil.Process().name()} (process {os.getpid()})"
    listener.close()
    assert ports.is_free(port)


@pytest.mark.anyio
async def test_an_answer_counts_by_its_first_line() -> None:
    # given
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"+" + await reader.readline())
        writer.close()

    server = await asyncio.start_server(answer, ports.HOST, 0)
    port = server.sockets[0].getsockname()[1]
    # then
    async with server:
        assert await ports.answers(port)
        assert await ports.answers(port, b"PING\r\n", b"+PING")
        assert not await ports.answers(port, b"PING\r\n", b"+PONG")
    assert not await ports.answers(port)
