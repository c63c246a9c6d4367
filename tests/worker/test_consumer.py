"""Workers as processes, over a real broker: streams are exact whatever happens, and nothing is left behind."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from shared.broker import Broker
from shared.messages import FinishReason, JobFailed, JobFinished, JobRequest
from shared.records import Bounds, Submission
from shared.sampling import SamplingParams
from tests.services import Worker
from tests.valkey import Valkey
from tests.waiting import until
from tests.worker.crew import (
    CATALOG,
    MODEL,
    SHORT_LEASE_MS,
    TIMING,
    has,
    leftovers,
    length,
    log,
    owner,
    result,
    stalls,
    submit,
    whole,
)
from worker.oracle_backend import text

pytestmark = pytest.mark.anyio


@pytest.fixture
async def broker(valkey: Valkey) -> AsyncIterator[Broker]:
    async with Broker(valkey.url, TIMING) as broker:
        yield broker


Hire = Callable[..., Worker]


@pytest.fixture
def hire(valkey: Valkey, tmp_path: Path) -> Iterator[Hire]:
    """Starts workers by name; what still runs afterwards is killed."""
    hired = []

    def start(name: str, step_ms: int = 10, **more: float) -> Worker:
        catalog = tmp_path / f"{step_ms}.toml"
        catalog.write_text(f"{CATALOG}{step_ms}")
        settings: dict[str, str | int | float] = {"lease_ms": TIMING.lease_ms, "beat_s": 0.2, "reap_s": 0.1, **more}
        hired.append(Worker(tmp_path / f"{name}.log", valkey.url, catalog, worker_name=name, **settings))
        hired[-1].start()
        return hired[-1]

    yield start
    for worker in hired:
        worker.kill()


async def test_more_jobs_than_slots(broker: Broker, valkey: Valkey, hire: Hire) -> None:
    worker = hire("a")
    for seed in range(40):
        await submit(broker, f"j{seed}", seed, 30)
    assert [await result(broker, f"j{seed}") for seed in range(40)] == [whole(seed, 30) for seed in range(40)]
    # when it is told to end, then it does so in order and leaves nothing
    assert worker.terminate() == 0
    assert leftovers(valkey) == set()


async def test_a_killed_worker_s_jobs_go_on_elsewhere(broker: Broker, valkey: Valkey, hire: Hire) -> None:
    # given jobs on one worker, and another one
    victim = hire("a", lease_ms=SHORT_LEASE_MS)
    for seed in range(8):
        await submit(broker, f"j{seed}", seed, 200)
    await has(broker, "j7", 5)
    heir = hire("b", lease_ms=SHORT_LEASE_MS)
    # when it is killed
    victim.kill()
    # then every stream is exact
    assert [await result(broker, f"j{seed}") for seed in range(8)] == [whole(seed, 200) for seed in range(8)]
    assert heir.terminate() == 0
    assert leftovers(valkey) == set()


async def test_the_only_worker_starts_again(broker: Broker, hire: Hire) -> None:
    worker = hire("a", lease_ms=SHORT_LEASE_MS)
    await submit(broker, "j", 1, 100)
    await has(broker, "j", 5)
    worker.kill()
    worker.start()
    assert await result(broker, "j") == whole(1, 100)


async def test_a_drain_hands_jobs_over_at_once(broker: Broker, valkey: Valkey, hire: Hire) -> None:
    # given jobs in full swing, one of them just claimed
    one = hire("a")
    for seed in range(4):
        await submit(broker, f"j{seed}", seed, 200)
    await has(broker, "j3", 5)
    other = hire("b")
    # when their worker is told to end
    assert one.terminate() == 0
    # then another one has them long before a lease is over, no attempt is counted, and every stream is exact
    until(lambda: {owner(valkey, f"j{seed}") for seed in range(4)} == {"b"}, timeout_s=TIMING.lease_ms / 3000)
    assert [await result(broker, f"j{seed}") for seed in range(4)] == [whole(seed, 200) for seed in range(4)]
    assert [stalls(valkey, f"j{seed}") for seed in range(4)] == [0, 0, 0, 0]
    assert other.terminate() == 0
    assert leftovers(valkey) == set()


async def test_a_drain_counts_no_attempt(broker: Broker, valkey: Valkey, hire: Hire) -> None:
    # given a job whose worker is told to end, again and again, before its first token
    await submit(broker, "j", 1, 5)
    worker = hire("a", step_ms=60_000)
    for _ in range(TIMING.stall_limit + 1):
        until(lambda: any(line["event"] == "job_started" for line in worker.lines()))
        assert worker.terminate() == 0
        assert (owner(valkey, "j"), stalls(valkey, "j")) == ("", 0)
        worker.log.unlink()
        worker.start()
    assert worker.terminate() == 0
    # then it is not given up
    hire("b")
    assert await result(broker, "j") == whole(1, 5)


async def test_a_cancelled_job_ends_within_its_step(broker: Broker, hire: Hire) -> None:
    hire("a", step_ms=100)
    await submit(broker, "j", 1, 2000)
    await has(broker, "j", 5)
    await broker.cancel("j")
    begun = len((await log(broker, "j"))[0])
    written, ending = await result(broker, "j")
    count = len(written) // 5
    # While the broker is slow to tell it, it makes some more.
    assert count <= begun + 10
    assert (written, ending) == (text(1, 0, count), JobFinished(FinishReason.CANCELLED, 2, count))


async def test_a_late_job_ends(broker: Broker, hire: Hire) -> None:
    hire("a")
    request = JobRequest(MODEL, SamplingParams(), "hi", max_new_tokens=8000)
    await broker.submit(Submission("j", request, "g", 300), Bounds())
    written, ending = await result(broker, "j")
    assert written == text(0, 0, len(written) // 5)
    assert isinstance(ending, JobFailed)
    assert ending.code == "deadline"


async def test_a_session_outlives_its_worker(broker: Broker, valkey: Valkey, hire: Hire) -> None:
    # given a dialogue at one worker
    owner_worker = hire("a", lease_ms=SHORT_LEASE_MS)
    await broker.open_session("s", MODEL, 100, 60_000, 9)
    await submit(broker, "j1", 1, 10, "s")
    assert await result(broker, "j1") == (text(1, 0, 10), JobFinished(FinishReason.LENGTH, 2, 10, kept=True))
    # when that worker is killed and the dialogue goes on
    heir = hire("b", lease_ms=SHORT_LEASE_MS)
    owner_worker.kill()
    await submit(broker, "j2", 2, 89, "s", prompt="")
    # then it goes on where it was: as many tokens fit as if nothing had happened
    assert await result(broker, "j2") == (text(2, 0, 89), JobFinished(FinishReason.LENGTH, 0, 89, kept=True))
    assert owner(valkey, "j2") == "b"
    await broker.close_session("s")
    assert heir.terminate() == 0
    assert leftovers(valkey) == set()


async def test_a_worker_bears_a_broker_that_restarts(broker: Broker, valkey: Valkey, hire: Hire) -> None:
    worker = hire("a", lease_ms=SHORT_LEASE_MS)
    for seed in range(4):
        await submit(broker, f"j{seed}", seed, 150)
    await has(broker, "j3", 10)
    valkey.kill()
    valkey.start()
    assert [await result(broker, f"j{seed}") for seed in range(4)] == [whole(seed, 150) for seed in range(4)]
    # and takes new jobs
    await submit(broker, "new", 9, 3)
    assert await result(broker, "new") == whole(9, 3)
    assert worker.terminate() == 0
    assert leftovers(valkey) == set()


async def test_a_stopped_worker_that_wakes_up_is_not_heard(broker: Broker, hire: Hire) -> None:
    # given a worker that is stopped for longer than its lease
    sleeper = hire("a", lease_ms=SHORT_LEASE_MS)
    await submit(broker, "j", 1, 300)
    await has(broker, "j", 5)
    hire("b", lease_ms=SHORT_LEASE_MS)
    assert sleeper.process is not None
    os.kill(sleeper.process.pid, signal.SIGSTOP)
    begun = len((await log(broker, "j"))[0])
    await has(broker, "j", begun + 5)
    # when it wakes up while another one runs its job
    os.kill(sleeper.process.pid, signal.SIGCONT)
    # then the stream is exact, and it has noticed
    assert await result(broker, "j") == whole(1, 300)
    until(lambda: any(line["event"] == "lease_lost" for line in sleeper.lines()))


async def test_a_worker_that_was_stopped_for_long_goes_on(broker: Broker, valkey: Valkey, hire: Hire) -> None:
    # given a worker that is stopped for more than twice the time in which its event loop must answer
    worker = hire("a", lease_ms=3000, beat_s=0.5, step_timeout_s=1)
    worker.send(signal.SIGSTOP)
    until(lambda: not valkey.client.exists("{p}:worker:a"))
    # when it wakes up
    worker.send(signal.SIGCONT)
    # then it does not take itself for one that hangs
    await submit(broker, "j", 1, 10)
    assert await result(broker, "j") == whole(1, 10)
    assert worker.terminate() == 0


async def test_a_worker_that_was_stopped_within_a_step_goes_on(broker: Broker, valkey: Valkey, hire: Hire) -> None:
    # given a worker that is stopped for longer than a step may take, with jobs under way
    worker = hire("a", step_ms=300, lease_ms=5000, beat_s=0.5, step_timeout_s=2)
    for seed in range(4):
        await submit(broker, f"j{seed}", seed, 10)
    await has(broker, "j3", 2)
    worker.send(signal.SIGSTOP)
    until(lambda: not valkey.client.exists("{p}:worker:a"))
    # when it wakes up
    worker.send(signal.SIGCONT)
    # then it takes neither its model nor a step for one that hangs
    assert [await result(broker, f"j{seed}") for seed in range(4)] == [whole(seed, 10) for seed in range(4)]
    assert "step_overdue" not in [line["event"] for line in worker.lines()]
    assert worker.terminate() == 0


async def test_a_worker_whose_model_hangs_leaves(broker: Broker, valkey: Valkey, hire: Hire) -> None:
    # given a model of which no step comes back, and jobs of one row and more, with short and long prompts
    for seed in range(4):
        await submit(broker, f"j{seed}", seed, 5, prompt="hi" * 10**seed)
    await submit(broker, "rows", 4, 5, choices=3)
    worker = hire("a", step_ms=60_000, step_timeout_s=0.5)
    assert worker.process is not None
    # then its worker ends, for a supervisor to start it again, and they go on elsewhere
    assert await asyncio.to_thread(worker.process.wait, 60) == 1
    assert {owner(valkey, job) for job in ("j0", "j1", "j2", "j3", "rows")} == {""}
    hire("b")
    for seed in range(4):
        assert await result(broker, f"j{seed}") == (text(seed, 0, 5), length(2 * 10**seed, 5))
    _, ending = await result(broker, "rows")
    assert ending == length(2, 15, 2)


async def test_a_long_prompt_costs_no_lease(broker: Broker, valkey: Valkey, hire: Hire) -> None:
    # given a prompt that takes longer than a lease and longer than a step may, in pieces that do not
    worker = hire("a", step_ms=1000, step_timeout_s=5, lease_ms=5000)
    await submit(broker, "j", 1, 1, prompt="x" * 3000)
    # then it is answered by the worker that began with it
    assert await result(broker, "j") == (text(1, 0, 1), length(3000, 1))
    events = [line["event"] for line in worker.lines()]
    assert events.count("job_started") == 1
    assert not {"step_overdue", "lease_lost"} & set(events)


async def test_one_wish_may_come_twice(hire: Hire) -> None:
    worker = hire("a")
    assert worker.process is not None
    worker.process.terminate()
    worker.process.send_signal(signal.SIGINT)
    assert worker.process.wait(60) == 0


async def test_a_second_wish_ends_it_on_the_spot(broker: Broker, valkey: Valkey, hire: Hire) -> None:
    # given a worker that has something to say, to a broker that is gone
    worker = hire("a")
    await submit(broker, "j", 1, 2000)
    await has(broker, "j", 5)
    assert worker.process is not None
    valkey.kill()
    try:
        until(lambda: any(line.get("doing") == "append" for line in worker.lines()))
        # when it is told to end over and over
        while worker.process.poll() is None:
            worker.process.terminate()
            await asyncio.sleep(0.05)
    finally:
        valkey.start()
    # then it does not wait for that, as an end in order does
    assert worker.process.returncode == 1
