"""Another server takes the broker's place in mid-answer: clients see a pause, and every byte of their answers."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import ORACLES
from tests.resting import spoiled
from tests.sentinels import Sentinels
from tests.services import Gateway, Worker
from tests.waiting import until, until_async
from worker.oracle_backend import text

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

TOKENS = 120


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    sentinels = Sentinels(tmp_path)
    try:
        sentinels.start()
        yield sentinels
    finally:
        sentinels.stop()


@pytest.fixture
def gateway(sentinels: Sentinels, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway and a worker that know the sentinels alone."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(ORACLES)
    gateway = Gateway(tmp_path / "gateway.log", sentinels.url, catalog, str(tmp_path / "files"))
    worker = Worker(tmp_path / "worker.log", sentinels.url, catalog)
    with contextlib.ExitStack() as stack:
        for service in (gateway, worker):
            stack.callback(service.kill)
            service.start()
        until(gateway.is_ready)
        yield gateway


async def ask(gateway: Gateway, seed: int, tokens: int = TOKENS) -> str:
    async with httpx.AsyncClient(timeout=40) as client:
        fields = {"inputs": "hi", "max_new_tokens": tokens, "seed": seed}
        answer = (await client.post(f"{gateway.url}/api/v1/generate", json=fields)).json()
    assert answer["ok"], answer
    return str(answer["outputs"])


async def answers_under_way(sentinels: Sentinels, gateway: Gateway, seeds: range) -> "list[asyncio.Task[str]]":
    """Answers that are asked for; returns when each has some tokens."""
    asking = [asyncio.create_task(ask(gateway, seed)) for seed in seeds]
    jobs = sentinels.primary.client
    await until_async(
        lambda: sum(int(jobs.hget(key, "last") or 0) >= 20 for key in jobs.scan_iter("*:job:*")) == len(seeds)
    )
    return asking


def replica_in_charge(sentinels: Sentinels) -> bool:
    """Whether the sentinels have made a replica the primary."""
    return sentinels.primary_port() in [replica.port for replica in sentinels.replicas]


async def test_answers_survive_the_loss_of_the_primary(sentinels: Sentinels, gateway: Gateway) -> None:
    # given answers under way
    asking = await answers_under_way(sentinels, gateway, range(8))
    # when the primary is gone, then all of them come to their ends
    sentinels.primary.send(signal.SIGKILL)
    assert await asyncio.gather(*asking) == [text(seed, 0, TOKENS) for seed in range(8)]
    # and a replica is who has them
    assert replica_in_charge(sentinels)
    assert await ask(gateway, 99, 3) == text(99, 0, 3)


async def test_nothing_is_heard_of_a_primary_that_wakes_up_again(sentinels: Sentinels, gateway: Gateway) -> None:
    # given answers under way, and a primary that does nothing any more
    asking = await answers_under_way(sentinels, gateway, range(8))
    sentinels.primary.send(signal.SIGSTOP)
    await until_async(lambda: replica_in_charge(sentinels), 20)
    # when it goes on, as the primary that it was, while others are asked for
    asking += [asyncio.create_task(ask(gateway, seed)) for seed in range(8, 16)]
    sentinels.primary.send(signal.SIGCONT)
    # then all answers are what they are without it
    assert await asyncio.gather(*asking) == [text(seed, 0, TOKENS) for seed in range(16)]
    # and it follows the new one, with what that one has
    old = sentinels.primary.client
    await until_async(lambda: old.info("replication")["role"] == "slave", 30)
    assert replica_in_charge(sentinels)
    (new,) = (replica.client for replica in sentinels.replicas if replica.port == sentinels.primary_port())
    await until_async(lambda: sorted(old.scan_iter("*:job:*")) == sorted(new.scan_iter("*:job:*")), 20)
    assert {new.hget(key, "state") for key in new.scan_iter("*:job:*")} == {b"done"}
    assert spoiled(new) == {}
