"""Another server takes the broker's place in mid-answer: clients see a pause, and every byte of their answers."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import ORACLES
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


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_answers_survive_the_loss_of_the_primary(
    sentinels: Sentinels, gateway: Gateway, how: signal.Signals
) -> None:
    # given answers under way
    asking = [asyncio.create_task(ask(gateway, seed)) for seed in range(8)]
    jobs = sentinels.primary.client
    await until_async(lambda: sum(int(jobs.hget(key, "last") or 0) >= 20 for key in jobs.scan_iter("*:job:*")) == 8)
    # when the primary is gone, then all of them come to their ends
    sentinels.primary.send(how)
    answers = await asyncio.gather(*asking)
    assert answers == [text(seed, 0, TOKENS) for seed in range(8)]
    # and the replica is who has them
    assert sentinels.primary_port() == sentinels.replica.port
    assert await ask(gateway, 99, 3) == text(99, 0, 3)
