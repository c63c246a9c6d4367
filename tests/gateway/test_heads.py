"""Heads that come slowly or are too large, over real sockets."""

import asyncio

import pytest

from tests.gateway.conftest import Served
from tests.gateway.player import Player

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = b"inputs=hi&max_new_tokens=1"
GENERATE = (
    b"POST /api/v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


@pytest.fixture(autouse=True)
def _short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.heads.HEAD_TIMEOUT_S", 0.2)


async def connect(gateway: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", gateway.client.base_url.port)


@pytest.mark.parametrize("before", [b"", LIVE], ids=["first request", "second request"])
async def test_half_a_head_is_waited_for_a_short_time_only(gateway: Served, before: bytes) -> None:
    reader, writer = await connect(gateway)
    writer.write(before)
    if before:
        await reader.readuntil(b'{"ok":true}')
    writer.write(b"GET / HTTP/1.1\r\nHost: ")
    assert await reader.read() == b""
    writer.close()


async def test_an_answer_may_take_longer(gateway: Served, player: Player) -> None:
    reader, writer = await connect(gateway)
    writer.write(GENERATE + GENERATE)
    for text in ("one", "two"):
        performance = await player.take()
        await asyncio.sleep(0.3)
        await performance.finish(text)
        await reader.readuntil(b'{"ok":true,"outputs":"%s"}' % text.encode())
    writer.close()


async def test_a_head_without_end(gateway: Served) -> None:
    reader, writer = await connect(gateway)
    line = b"X-More: " + b"x" * 1000 + b"\r\n"
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n" + 70 * line)
    answer = asyncio.create_task(reader.read())
    # one more line at a time, so that the answer finds nothing unread, which would reset the connection
    while not answer.done():
        await asyncio.wait({answer}, timeout=0.05)
        writer.write(line)
    assert answer.result().startswith(b"HTTP/1.1 400 Bad Request\r\n")
    writer.close()
