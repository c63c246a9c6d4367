"""A new version is rolled out over two gateways and two workers behind a load balancer: nobody notices."""

import asyncio
import itertools
from collections import Counter

import httpx
import pytest

from tests.balancer import balanced
from tests.dialogue import dialogue
from tests.e2e.conftest import Stack
from tests.e2e.test_faults import question
from tests.waiting import until
from worker.oracle_backend import text

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

TOKENS = 50
CLIENTS = 6


class Users:
    """Clients that know nothing of resuming; `seen` counts what they saw."""

    def __init__(self, address: str) -> None:
        self.seen: Counter[str] = Counter()
        self._address = address
        self._seeds = itertools.count(1000)
        self._enough = asyncio.Event()

    async def by_http(self) -> None:
        """Whole answers, each over a connection of its own."""
        while not self._enough.is_set():
            seed = next(self._seeds)
            async with httpx.AsyncClient(timeout=30) as client:
                reply = await client.post(
                    f"http://{self._address}/api/v1/generate",
                    json={"inputs": "hi", "max_new_tokens": TOKENS, "seed": seed},
                )
            self._count("http", reply.json(), seed)

    async def by_socket(self) -> None:
        """Streamed answers, each over a socket of its own."""
        while not self._enough.is_set():
            seed = next(self._seeds)
            async with dialogue(f"ws://{self._address}/api/v2/generate") as socket:
                await socket.open(max_length=1024)
                got = [reply["outputs"] async for reply in socket.generate(**question(seed, TOKENS))]
            self._count("socket", {"outputs": "".join(got)}, seed)

    def _count(self, kind: str, reply: dict[str, object], seed: int) -> None:
        self.seen[kind if reply.get("outputs") == text(seed, 0, TOKENS) else f"{kind}: {reply}"] += 1

    def end(self) -> None:
        """Let all finish what they read."""
        self._enough.set()


async def test_nobody_notices_a_rolling_restart(oracle: Stack) -> None:
    first, second = oracle.gateways
    async with balanced(first.port, second.port) as address:
        users = Users(address)
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(users.by_http())
                group.create_task(users.by_socket())
            for service in (*oracle.gateways, *oracle.workers):
                assert await asyncio.to_thread(service.terminate) == 0
                await asyncio.to_thread(service.start)
                await asyncio.to_thread(until, first.is_ready)
            users.end()
    assert set(users.seen) == {"http", "socket"}
    assert min(users.seen.values()) >= CLIENTS
