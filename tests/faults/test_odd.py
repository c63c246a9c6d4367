"""Workers that something is wrong with."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from shared.broker import Broker
from shared.messages import JobRequest
from shared.records import Bounds, Registration, Submission
from shared.sampling import SamplingParams
from tests.faults.asker import Asker
from tests.faults.conftest import (
    BUSY,
    CATALOG,
    FULL,
    LEASE_S,
    SILENCE_S,
    STEP_S,
    Stack,
    Tell,
    bounded,
    running_stack,
    start,
    within,
)
from tests.faults.reader import Reader, check, reading
from tests.services import Worker
from tests.valkey import Valkey
from tests.waiting import until_async
from worker.oracle_backend import text

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

POISON = 666
TRAP = 667
HOUR_S = 3600
# Longer than two silences and what is read beside them.
DEADLINE_S = 10 + int(2 * LEASE_S)


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


async def test_a_worker_whose_event_loop_hangs_ends_itself(tmp_path: Path, valkey: Valkey) -> None:
    """So that a supervisor starts another one; its job goes on at once at others."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG.format(step_ms=20))
    times = {"lease_ms": 60_000, "beat_s": 0.1, "step_timeout_s": 2}
    worker = Worker(tmp_path / "worker.log", valkey.url, catalog, **times)
    worker.name, worker.arguments = "tests.faults.odd_worker", ["--trap", str(TRAP)]
    try:
        worker.start()
        async with Broker(valkey.url) as broker:
            model = "corolla/oracle"
            request = JobRequest(model, SamplingParams(seed=TRAP), "hi", max_new_tokens=9)
            await broker.submit(Submission("ab" * 16, request, "g", 60_000), Bounds())
            assert worker.process is not None
            assert await asyncio.to_thread(worker.process.wait, 60) == 1
            (claim,) = await broker.claim(Registration("other", (model,), 1), 1, 1000)
        # The fourth token may have been on its way when the loop hung at the fifth.
        assert len(claim.log) in (3, 4)
        assert [token.text for token in claim.log] == [text(TRAP, number, 1) for number in range(len(claim.log))]
        assert [line["event"] for line in worker.lines()][-1] == "event_loop_stuck, the process ends"
    finally:
        worker.kill()


@bounded
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
    within(SILENCE_S, max(silences))
    answers = [each.result() for each in late]
    assert [(answer.status, answer.error) for answer in answers] == [(504, "deadline_exceeded")] * len(late)
    assert min(answer.seconds for answer in answers) >= DEADLINE_S
    within(DEADLINE_S + (STEP_S + 0.1) * BUSY, max(answer.seconds for answer in answers))


async def _longest_silence(stack: Stack, victim: Worker) -> float:
    """Of some answers whose worker is killed, and started again."""
    readers = stack.readers(8, 50)
    async with reading(readers):
        assert stack.owned()[victim.registered]
        await asyncio.to_thread(victim.kill)
        await asyncio.to_thread(victim.start)
    return max(reader.silence_s for reader in readers)
