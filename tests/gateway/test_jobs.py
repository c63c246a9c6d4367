"""Runs: a job to its end, whatever happens between, over a real broker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

import gateway.jobs
from gateway.hub import Hub
from gateway.jobs import Jobs, Run
from gateway.metrics import Metrics
from gateway.orders import Order, Queued
from shared.broker import Broker
from shared.errors import Code, CorollaError
from shared.messages import Ending, FinishReason, JobFailed, JobFinished, JobRequest
from shared.records import Bounds, Busy
from shared.sampling import SamplingParams
from tests.gateway.conftest import MODEL, TIMING
from tests.gateway.player import Performance, Player
from tests.valkey import Valkey
from tests.waiting import until_async

pytestmark = pytest.mark.anyio

JOB = "ab" * 16
REQUEST = JobRequest(MODEL, SamplingParams(), "hi", max_new_tokens=9)
ORDER = Order(JOB, REQUEST)
BOUNDS = Bounds(10, 10)
DISCONTINUITY = JobFailed(
    Code.DISCONTINUITY, "The stream was interrupted and cannot go on exactly; please send the request again"
)


class Reader:
    """Reads a run in the background."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.texts: list[str] = []
        self.queued: list[int] = []
        self.ending: Ending | None = None

    async def read(self) -> None:
        async for event in self.run.events():
            if isinstance(event, Queued):
                self.queued.append(event.ahead)
                continue
            assert event.first == len(self.texts) + self.run.order.after + 1
            self.texts += [token.text for token in event.tokens]
            self.ending = event.ending


@contextlib.asynccontextmanager
async def running(
    broker: Broker, bounds: Bounds = BOUNDS, deadline_s: float = 30, grace_s: float = 0.5
) -> AsyncIterator[Jobs]:
    """A gateway's jobs, and the hub under them."""
    hub = Hub(broker, f"g{id(bounds)}")
    jobs = Jobs(broker, hub, bounds, deadline_s, grace_s, Metrics([MODEL]))
    task = asyncio.create_task(hub.run())
    try:
        yield jobs
    finally:
        await jobs.close()
        task.cancel()
        await asyncio.wait({task})


@contextlib.asynccontextmanager
async def reading(jobs: Jobs, order: Order = ORDER) -> AsyncIterator[Reader]:
    """A reader of the job; its end is awaited."""
    async with jobs.run(order) as run:
        reader = Reader(run)
        task = asyncio.create_task(reader.read())
        yield reader
        await task


def job_keys(valkey: Valkey) -> list[str]:
    return [f"{{p}}:{kind}:{JOB}" for kind in ("job", "log", "sub")]


async def until_read(reader: Reader, *texts: str) -> None:
    await until_async(lambda: tuple(reader.texts) == texts)


async def test_a_job_to_its_end(broker: Broker, player: Player) -> None:
    async with running(broker) as jobs, reading(jobs) as reader:
        worker = await player.take()
        await worker.say("a", "b")
        await worker.finish("c")
    assert reader.texts == ["a", "b", "c"]
    assert reader.ending == JobFinished(FinishReason.LENGTH, 1, 3)


async def test_a_job_that_the_broker_forgot_is_submitted_again(broker: Broker, player: Player, valkey: Valkey) -> None:
    async with running(broker) as jobs, reading(jobs) as reader:
        worker = await player.take()
        await worker.say("a", "b")
        await until_read(reader, "a", "b")
        # when all that is known of it is lost
        valkey.client.delete(*job_keys(valkey))
        again = await player.take()
        assert again.claim.request == REQUEST
        assert again.claim.log == ()
        # then what was delivered is not delivered again
        await again.say("a", "b", "c")
        await again.finish("d")
    assert reader.texts == ["a", "b", "c", "d"]


async def test_a_job_that_was_lost_just_after_it_was_submitted(broker: Broker, valkey: Valkey) -> None:
    async with running(broker) as jobs, reading(jobs) as reader:
        valkey.client.flushall()
        player = Player(broker, (MODEL,))
        await (await player.take()).finish("a")
    assert reader.texts == ["a"]


@pytest.mark.parametrize("second", [("a", "x"), ("a",)], ids=["another token", "a shorter answer"])
async def test_an_answer_that_comes_out_otherwise_is_a_discontinuity(
    broker: Broker, player: Player, valkey: Valkey, second: tuple[str, ...]
) -> None:
    async with running(broker) as jobs, reading(jobs) as reader:
        await (await player.take()).say("a", "b", "c")
        await until_read(reader, "a", "b", "c")
        valkey.client.delete(*job_keys(valkey))
        await (await player.take()).finish(*second)
    assert (reader.texts, reader.ending) == (["a", "b", "c"], DISCONTINUITY)


async def test_an_answer_that_fails_the_second_time(broker: Broker, player: Player, valkey: Valkey) -> None:
    failed = JobFailed(Code.SWARM, "no server")
    async with running(broker) as jobs, reading(jobs) as reader:
        await (await player.take()).say("a", "b", "c")
        await until_read(reader, "a", "b", "c")
        valkey.client.delete(*job_keys(valkey))
        await (await player.take()).say("a", ending=failed)
    assert (reader.texts, reader.ending) == (["a", "b", "c"], failed)


async def test_the_broker_dies_and_comes_back(broker: Broker, player: Player, valkey: Valkey) -> None:
    async with running(broker) as jobs, reading(jobs) as reader:
        worker = await player.take()
        await worker.say("a", "b")
        await until_read(reader, "a", "b")
        valkey.kill()
        valkey.start()
        appended = await worker.say("c")
        if appended.status != "ok":  # the broker may have forgotten the tokens, or the claim, or the job
            worker = Performance(broker, worker.claim) if appended.status == "gap" else await player.take()
            await worker.say(*("a", "b", "c")[len(worker.claim.log) :])
        await worker.finish("d")
    assert reader.texts == ["a", "b", "c", "d"]


async def test_a_broker_that_stays_away(broker: Broker, valkey: Valkey) -> None:
    async with running(broker, deadline_s=0.5) as jobs:
        valkey.kill()
        try:
            with pytest.raises(CorollaError) as caught:
                async with jobs.run(ORDER):
                    pass
        finally:
            valkey.start()
    assert caught.value.code is Code.BROKER


async def test_a_job_that_nobody_ends(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.jobs.DEADLINE_MARGIN_S", 0.2)
    async with Broker(valkey.url, TIMING) as broker, running(broker, deadline_s=0.3) as jobs, reading(jobs) as reader:
        valkey.client.zrem("{p}:due", JOB)
    assert reader.ending == JobFailed(Code.DEADLINE, "The answer was not finished in time, please try again later")


async def test_bounds(broker: Broker, valkey: Valkey) -> None:
    async with running(broker, Bounds(0, 10)) as jobs:
        with pytest.raises(Busy) as caught:
            async with jobs.run(ORDER):
                pass
    assert (caught.value.code, caught.value.depth) == (Code.TENANT_BUSY, 0)


async def test_a_job_that_was_accepted_once_is_not_refused_later(broker: Broker, valkey: Valkey) -> None:
    async with running(broker, Bounds(1, 1)) as jobs, reading(jobs) as reader:
        # given that others wait by now
        valkey.client.delete(*job_keys(valkey))
        valkey.client.hset("{p}:waiting", mapping={"-": 5, "*": 5})
        # then it is accepted again all the same
        player = Player(broker, (MODEL,))
        await (await player.take()).finish("a")
    assert reader.texts == ["a"]


async def test_a_reader_who_leaves_cancels(broker: Broker, player: Player) -> None:
    # given a job that nothing else would end so soon
    async with running(broker, deadline_s=300, grace_s=300) as jobs:
        async with jobs.run(ORDER):
            worker = await player.take()
            await worker.say("a")
        await worker.until_cancelled()


async def test_a_reader_who_is_cancelled_while_submitting_leaves_nothing(
    broker: Broker, player: Player, valkey: Valkey
) -> None:
    async with running(broker) as jobs:

        async def ask() -> None:
            async with jobs.run(ORDER):
                raise AssertionError("never reached")

        # given a broker that answers nothing for a while
        valkey.client.client_pause(300)
        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.1)
        asking.cancel()
        await asyncio.wait({asking})
        # then the job that it accepts in the end is cancelled
    state = valkey.client.hget(f"{{p}}:job:{JOB}", "state")
    assert state in (None, b"done")
    assert valkey.client.xlen(f"{{p}}:ready:{MODEL}:interactive") == 0


async def test_a_resumable_job_outlives_its_reader_for_the_grace(broker: Broker, player: Player) -> None:
    order = Order(JOB, REQUEST, resumable=True)
    async with running(broker, grace_s=0.5) as jobs:
        async with jobs.run(order):
            worker = await player.take()
            await worker.say("a")
        assert await worker.is_running()
        # when the reader comes back
        async with reading(jobs, Order(JOB, None, after=1, resumable=True)) as reader:
            await asyncio.sleep(0.7)
            assert await worker.is_running()
            await worker.finish("b")
    assert reader.texts == ["b"]


async def test_a_resumable_job_is_followed_by_nobody_after_the_grace(
    broker: Broker, player: Player, valkey: Valkey
) -> None:
    async with running(broker, grace_s=0.1) as jobs:
        async with jobs.run(Order(JOB, REQUEST, resumable=True)):
            await player.take()
        await until_async(lambda: valkey.client.hget(f"{{p}}:job:{JOB}", "unfollowed") == b"1")
        assert valkey.client.exists(f"{{p}}:sub:{JOB}") == 0


async def test_an_abandoned_job_is_cancelled_at_once(broker: Broker, player: Player) -> None:
    async with running(broker, deadline_s=300, grace_s=300) as jobs:
        async with jobs.run(Order(JOB, REQUEST, resumable=True)):
            worker = await player.take()
            jobs.abandon()
        await worker.until_cancelled()


async def test_two_readers_of_one_job(broker: Broker, player: Player) -> None:
    async with running(broker) as jobs, reading(jobs) as one, reading(jobs) as two:
        worker = await player.take()
        await worker.say("a")
        await worker.finish("b")
    assert one.texts == two.texts == ["a", "b"]


async def test_cancel(broker: Broker, player: Player) -> None:
    async with running(broker) as jobs, reading(jobs) as reader:
        worker = await player.take()
        await worker.say("a")
        await reader.run.cancel()
        assert await worker.is_cancelled()
        await worker.finish(reason=FinishReason.CANCELLED)
    assert reader.ending == JobFinished(FinishReason.CANCELLED, 1, 1)


async def test_cancel_of_a_job_that_is_gone(broker: Broker, player: Player, valkey: Valkey) -> None:
    async with running(broker) as jobs, reading(jobs) as reader:
        await (await player.take()).say("a")
        await until_read(reader, "a")
        valkey.client.delete(*job_keys(valkey))
        await reader.run.cancel()
    assert (reader.texts, reader.ending) == (["a"], JobFinished(FinishReason.CANCELLED))


async def test_the_place_in_the_queue(broker: Broker, player: Player) -> None:
    async with running(broker) as jobs, reading(jobs, Order(JOB, REQUEST, progress=True)) as reader:
        await until_async(lambda: reader.queued == [1])
        await (await player.take()).finish("a")
    assert reader.texts == ["a"]


async def test_news_come_also_while_nothing_happens(
    broker: Broker, player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.jobs, "NEWS_S", 0.05)
    async with running(broker) as jobs, reading(jobs, Order(JOB, REQUEST, progress=True)) as reader:
        await until_async(lambda: reader.queued[:3] == [1, 1, 1])
        worker = await player.take()
        await worker.say("a")
        await until_async(lambda: reader.queued[-2:] == [0, 0])
        await worker.finish("b")
    assert reader.texts == ["a", "b"]


async def test_who_comes_back_hears_at_once_that_it_worked(broker: Broker, player: Player) -> None:
    order = Order(JOB, REQUEST, resumable=True)
    async with running(broker) as jobs, reading(jobs, order) as first:
        worker = await player.take()
        await worker.say("a")
        await until_read(first, "a")
        async with reading(jobs, Order(JOB, None, after=1, resumable=True, progress=True)) as second:
            await until_async(lambda: second.queued == [0])
            await worker.finish("b")
    assert second.texts == ["b"]


async def test_going_on_with_what_is_gone(broker: Broker) -> None:
    async with running(broker) as jobs, reading(jobs, Order(JOB, None, after=3)) as reader:
        pass
    assert reader.ending == DISCONTINUITY


async def test_at_rest_nothing_is_left(broker: Broker, player: Player, valkey: Valkey) -> None:
    async with running(broker) as jobs:
        async with reading(jobs):
            await (await player.take()).finish("a")
        await until_async(lambda: valkey.client.exists("{p}:gateways"))
    names = {str(name, "ascii") for name in valkey.client.scan_iter()}
    ready = {f"{{p}}:ready:{MODEL}:{lane}" for lane in ("interactive", "batch", "resumed")}
    kept = {f"{{p}}:{kind}:{JOB}" for kind in ("job", "log")} | {"{p}:pace", "{p}:gateways"}
    assert {name for name in names if "worker" not in name and "serving" not in name} - ready == kept
    assert valkey.client.pttl(f"{{p}}:job:{JOB}") > 0
    assert valkey.client.pttl(f"{{p}}:log:{JOB}") > 0
