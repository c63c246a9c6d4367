"""Waiting for Redis ends when it should."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from shared import link
from shared.errors import BrokerUnavailable
from shared.link import Link
from tests.valkey import Valkey

pytestmark = pytest.mark.anyio

OPERATIONS: dict[str, Callable[[Link], Awaitable[object]]] = {
    "ping": lambda client: client.ping(),
    "script": lambda client: client.run("workers", ["{p}:workers"]),
    "blocking read": lambda client: client.read_one("w", ["{p}:none"], 60_000),
}


@pytest.fixture
async def client(valkey: Valkey) -> AsyncIterator[Link]:
    client = Link(valkey.url, "{p}:")
    yield client
    await client.close()


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_cancellation_is_never_lost(client: Link, name: str) -> None:
    # whatever the operation is about when it comes
    for moment in range(60):

        async def work() -> None:
            while True:
                await OPERATIONS[name](client)

        task = asyncio.create_task(work())
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=0.2)
        assert task.cancelled(), f"lost at moment {moment}"


@pytest.mark.parametrize("name", ["ping", "script"])
async def test_a_silent_redis_is_unavailable(
    client: Link, valkey: Valkey, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "ANSWER_TIMEOUT_S", 0.1)
    valkey.client.client_pause(600)
    before = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        await OPERATIONS[name](client)
    assert time.monotonic() - before < 0.5


async def test_a_blocking_read_of_a_silent_redis_is_unavailable(
    client: Link, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "ANSWER_TIMEOUT_S", 0.1)
    valkey.client.xgroup_create("{p}:some", "workers", 0, mkstream=True)
    assert await client.read_one("w", ["{p}:some"], 50) == []
    valkey.client.client_pause(600)
    with pytest.raises(BrokerUnavailable):
        await client.read_one("w", ["{p}:some"], 50)


async def test_more_calls_at_once_than_connections_wait_for_one_another(client: Link, valkey: Valkey) -> None:
    await asyncio.gather(*(client.ping() for _ in range(500)))
    assert valkey.client.info("clients")["connected_clients"] <= link.MAX_CONNECTIONS + 1
