"""Workers that something is wrong with."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from shared.broker import Broker
from tests.faults.conftest import FULL, Stack, full_only, running_stack, start
from tests.faults.reader import Reader, check, reading
from tests.waiting import until_async

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

POISON = 666
HOUR_S = 3600


async def _restart_often(stack: Stack, deaths: list[int | None]) -> None:
    """Do what a supervisor does: sign off whoever ended, and start it again."""
    async with Broker(stack.valkey.url) as broker:
        while True:
            for worker in stack.workers:
                assert worker.process is not None
                if worker.process.poll() is not None:
                    deaths.append(worker.process.returncode)
                    await broker.leave(worker.registered)
                    await asyncio.to_thread(worker.start)
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("workers", [1, 2] if FULL else [1])
async def test_a_job_that_kills_its_worker_is_given_up(tmp_path: Path, workers: int) -> None:
    """After three tries without a token; the jobs beside it are exact, even those that have no other worker."""
    async with running_stack(tmp_path, workers, oddity=f"--poison {POISON}") as stack:
        deaths: list[int | None] = []
        others, poison = stack.readers(16, 100), Reader(stack.urls, POISON, 100)
        restarting = asyncio.create_task(_restart_often(stack, deaths))
        try:
            async with reading([*others, poison], position=4, whole=False):
                await until_async(lambda: poison.ended, 90)
        finally:
            restarting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await restarting
            await start(stack)
        check(others)
        assert "given up" in (poison.failure or "")
        assert poison.position <= 4
        # Three tries without a token, and at least one that gave some.
        assert stack.valkey.client.hget(f"{{p}}:job:{poison.job}", "stalls") == b"3"
        assert len(deaths) >= 4
        assert set(deaths) == {66}
        assert stack.dead() == [poison.job]


@full_only
@pytest.mark.parametrize("clock_s", [-HOUR_S, HOUR_S])
async def test_a_worker_whose_clock_is_wrong(tmp_path: Path, clock_s: int) -> None:
    """Only the broker's clock counts: leases, deadlines and answers are as ever, also where a worker is lost."""
    async with running_stack(tmp_path, oddity=f"--clock {clock_s}") as stack:
        async with reading(stack.readers(8, 50)):
            await asyncio.to_thread(stack.workers[0].kill)
        await start(stack)
