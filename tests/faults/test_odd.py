"""Workers that something is wrong with."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from shared.broker import Broker
from tests.faults.asker import Asker
from tests.faults.conftest import BUSY, FULL, LEASE_S, SILENCE_S, STEP_S, Stack, Tell, running_stack, start
from tests.faults.reader import Reader, check, reading
from tests.services import Worker
from tests.waiting import until_async

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

POISON = 666
HOUR_S = 3600
# Longer than a silence and what is read beside it.
DEADLINE_S = int(LEASE_S) + 8


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
    async with running_stack(tmp_path, workers, oddities=[f"--poison {POISON}"] * workers) as stack:
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


async def test_workers_whose_clocks_are_wrong(tmp_path: Path, tell: Tell) -> None:
    """Only the broker's clock counts: leases, deadlines and answers are as ever, also where a worker is lost."""
    # given a worker an hour ahead, and one an hour behind
    oddities = (f"--clock {HOUR_S}", f"--clock -{HOUR_S}")
    async with (
        running_stack(tmp_path, oddities=oddities, deadline_s=DEADLINE_S) as stack,
        Asker(stack.gateways[0].url) as asker,
        asyncio.TaskGroup() as group,
    ):
        # when answers are asked for that take too long, and each of both is lost once while others are read
        late = [group.create_task(asker.ask(seed, 4000)) for seed in range(8)]
        silences = [await _longest_silence(stack, worker) for worker in stack.workers]
        tell(f"longest silences {', '.join(f'{silence:.1f} s' for silence in silences)}")
        # then neither is taken for dead too late, nor any answer for late too early or too late
        assert max(silences) <= SILENCE_S
        answers = [await each for each in late]
        assert [(answer.status, answer.error) for answer in answers] == [(504, "deadline_exceeded")] * len(late)
        assert min(answer.seconds for answer in answers) >= DEADLINE_S
        assert max(answer.seconds for answer in answers) <= DEADLINE_S + (STEP_S + 0.1) * BUSY


async def _longest_silence(stack: Stack, victim: Worker) -> float:
    """Of some answers whose worker is killed, and started again."""
    readers = stack.readers(8, 50)
    async with reading(readers):
        assert stack.owned()[victim.registered]
        await asyncio.to_thread(victim.kill)
        await asyncio.to_thread(victim.start)
    return max(reader.silence_s for reader in readers)
