"""Clients that read a hundred bytes a second of answers that come much faster."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.hub import FEED_BYTES
from gateway.progress import HELD_BYTES
from gateway.server import SEND_BUFFER_BYTES
from tests.faults.conftest import Stack, Tell, full_only, running_stack
from tests.faults.reader import Reader, quantile, reading, spread

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

SLOW = 200
SECONDS = 60
MIB = 1 << 20
# A token as such a reader is sent it, at least; while it waits it weighs more.
EVENT_BYTES = 900
# What lies between a job and its reader: the events that wait for it, the connection's buffer, and the system's.
BEFORE_BYTES = FEED_BYTES + HELD_BYTES + 2 * SEND_BUFFER_BYTES


async def _crawl(port: int, seed: int) -> None:
    """Take 100 bytes a second of a long answer with many logprobs, for ever."""
    message = {"role": "user", "content": "hi"}
    fields = {"messages": [message], "max_tokens": 3000, "seed": seed, "stream": True}
    body = json.dumps({**fields, "logprobs": True, "top_logprobs": 10}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
    plug = socket.socket()
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    plug.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plug, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=plug, limit=128)
    with contextlib.closing(writer):
        writer.write(head.encode() + b"\r\n\r\n" + body)
        while await reader.read(50):
            await asyncio.sleep(0.5)
    raise AssertionError("a slow reader was thrown out")


@contextlib.asynccontextmanager
async def _crowd(stack: Stack) -> AsyncIterator[None]:
    crawling = [asyncio.create_task(_crawl(stack.gateways[0].port, seed)) for seed in range(SLOW)]
    try:
        await asyncio.sleep(SECONDS / 2)
        yield
    finally:
        for each in crawling:
            each.cancel()
        ends = await asyncio.gather(*crawling, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends


async def _intervals(stack: Stack) -> list[float]:
    """Times between the tokens of some answers that are read as they come."""
    readers = [Reader(stack.urls[:1], seed, 5 * SECONDS) for seed in range(1, 9)]
    async with reading(readers):
        pass
    return [end - begin for reader in readers for begin, end in reader.silences[2:-2]]


def _written(stack: Stack) -> list[int]:
    """Tokens of each answer that is under way."""
    client = stack.valkey.client
    fields = [client.hmget(job, "state", "last") for job in client.scan_iter("{p}:job:*")]
    return [int(last or 0) for state, last in fields if state == b"running"]


@full_only
async def test_slow_readers_cost_others_nothing(tmp_path: Path, tell: Tell) -> None:
    """Memory grows by 64 MiB at most, and the time between the tokens of others by a tenth at most (p99)."""
    async with running_stack(tmp_path, gateways=1, slots=128, step_ms=100) as stack:
        before, weight = await _intervals(stack), stack.gateways[0].rss_mb
        async with _crowd(stack):
            began = time.monotonic()
            beside = await _intervals(stack)
            await asyncio.sleep(max(SECONDS / 2 - (time.monotonic() - began), 0))
            more = stack.gateways[0].rss_mb - weight
            # so that all that may be held was held, and the rest had to be read again
            assert min(_written(stack)) * EVENT_BYTES > BEFORE_BYTES
    tell(f"{more:+.1f} MB; tokens of others after {spread(beside)}, before {spread(before)}")
    assert more * 1e6 <= 64 * MIB
    assert quantile(beside, 0.99) <= 1.1 * quantile(before, 0.99)
