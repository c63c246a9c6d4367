"""Feeds that miss nothing, over a real broker."""

import asyncio
import contextlib
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.hub import FEED_BYTES, PAGE_ENTRIES, Feed, Hub, JobGone
from gateway.transcript import Transcript
from shared.broker import Broker
from shared.errors import Code, CorollaError
from shared.keys import Timing
from shared.messages import FinishReason, JobFinished, JobRequest, LogEntry, Token, decode_entry, encode
from shared.records import Attached, Bounds, Position, Submission
from shared.sampling import SamplingParams
from tests.gateway.conftest import MODEL
from tests.gateway.player import Performance, Player, token, weighed
from tests.valkey import Valkey
from tests.waiting import until_async

pytestmark = pytest.mark.anyio

JOB = "ab" * 16
REQUEST = JobRequest(MODEL, SamplingParams(), "hi", max_new_tokens=9)
PATIENCE_S = 30.0


def entry(first: int, *texts: str, ending: bool = False) -> LogEntry:
    return LogEntry(first, tuple(map(token, texts)), JobFinished(FinishReason.STOP) if ending else None)


@contextlib.asynccontextmanager
async def running(hub: Hub, valkey: Valkey) -> AsyncIterator[None]:
    """The hub listens, from the first event on."""
    task = asyncio.create_task(hub.run())
    try:
        await until_async(lambda: valkey.client.pubsub_channels() == [b"{p}:gateway:g"])
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def submit(broker: Broker, feed: Feed, gateway: str = "g") -> None:
    feed.restart()
    feed.confirm(await broker.submit(Submission(JOB, REQUEST, gateway, 60_000), Bounds()) == "known")


async def read(feed: Feed, upto: int) -> list[str]:
    """Texts that the feed gives, repetitions left out, until it has given the event `upto`."""
    texts: list[str] = []
    transcript = Transcript()
    while transcript.last < upto:
        got = await feed.take(PATIENCE_S)
        if got is None:
            await feed.wait(PATIENCE_S)
        elif fresh := transcript.accept(got):
            texts += [each.text for each in fresh.tokens]
    return texts


@pytest.fixture
def hub(broker: Broker) -> Hub:
    return Hub(broker, "g")


@pytest.fixture
async def performance(broker: Broker, player: Player, hub: Hub) -> tuple[Feed, Performance]:
    """A job that is followed and claimed."""
    feed = hub.open(JOB)
    await submit(broker, feed)
    return feed, await player.take()


Scene = tuple[Feed, Performance]


async def test_events_come_live(hub: Hub, performance: Scene, valkey: Valkey) -> None:
    feed, worker = performance
    async with running(hub, valkey):
        await worker.say("a")
        await worker.say("b", "c")
        assert await read(feed, 3) == ["a", "b", "c"]


async def test_events_that_overtake_the_answer_to_the_submission(hub: Hub) -> None:
    feed = hub.open(JOB)
    feed.restart()
    feed.push(entry(1, "a"))
    feed.confirm(known=False)
    assert await feed.take(PATIENCE_S) == entry(1, "a")


async def test_a_lost_message_is_found_by_the_next_one(hub: Hub, performance: Scene, valkey: Valkey) -> None:
    # given a hub that hears nothing of the first token
    feed, worker = performance
    valkey.client.srem(f"{{p}}:sub:{JOB}", "g")
    await worker.say("a")
    valkey.client.sadd(f"{{p}}:sub:{JOB}", "g")
    # when it hears the second one
    feed.push(entry(2, "b"))
    await worker.say("b")
    # then it has both
    assert await read(feed, 2) == ["a", "b"]


async def test_a_lost_message_is_found_by_the_check(broker: Broker, hub: Hub, performance: Scene) -> None:
    feed, worker = performance
    await worker.say("a", "b")
    await hub.check([JOB])
    assert await read(feed, 2) == ["a", "b"]


async def test_the_subscription_is_killed_again_and_again(hub: Hub, performance: Scene, valkey: Valkey) -> None:
    feed, worker = performance
    async with running(hub, valkey):
        reading = asyncio.create_task(read(feed, 200))
        for number in range(200):
            await worker.say(str(number))
            if number % 20 == 10:
                await until_async(lambda: valkey.client.client_kill_filter(_type="pubsub"))
        assert await reading == [str(number) for number in range(200)]


async def test_a_look_from_before_the_job_was_submitted_again_says_nothing(valkey: Valkey) -> None:
    async with Broker(valkey.url) as broker:
        feed = Hub(broker, "g").open(JOB)
        # given a job that is being submitted again, as it was lost
        feed.restart()
        # when somebody hears who looked before
        feed.compare(Position("gone", 0, 0), 0)
        feed.confirm(known=False)
        # then it is not taken for lost once more
        assert await feed.take(PATIENCE_S) is None


async def test_a_job_that_is_gone(hub: Hub, performance: Scene, valkey: Valkey) -> None:
    feed, _ = performance
    valkey.client.delete(f"{{p}}:job:{JOB}", f"{{p}}:log:{JOB}")
    await hub.check([JOB])
    with pytest.raises(JobGone):
        await feed.take(PATIENCE_S)


async def test_a_slow_reader_holds_a_bounded_part_and_misses_nothing(
    hub: Hub, performance: Scene, valkey: Valkey
) -> None:
    feed, worker = performance
    words = [f"{number} " + "x" * 1000 for number in range(600)]
    async with running(hub, valkey):
        for word in words:
            await worker.say(word)
        await until_async(lambda: feed.held_bytes > FEED_BYTES)
        await hub.check([JOB])
        assert feed.held_bytes < FEED_BYTES + 2000
        assert await read(feed, 600) == words


async def test_a_slow_reader_reads_each_part_of_the_log_once(
    broker: Broker, hub: Hub, performance: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed, worker = performance
    words = [f"{number} " + "x" * 500 for number in range(600)]
    for word in words:
        await worker.say(word)
    told: list[int] = []
    attach = broker.attach

    async def counted(*asked: Any) -> Attached | None:
        attached = await attach(*asked)
        told.append(len(attached.entries) if attached else 0)
        return attached

    monkeypatch.setattr(broker, "attach", counted)
    await hub.check([JOB])
    assert await read(feed, 600) == words
    assert await feed.take(PATIENCE_S) is None
    assert told == [PAGE_ENTRIES] * 9 + [600 - 9 * PAGE_ENTRIES]


@pytest.mark.parametrize("ending", [False, True])
async def test_a_log_of_exactly_one_page(hub: Hub, performance: Scene, ending: bool) -> None:
    feed, worker = performance
    words = [str(number) for number in range(PAGE_ENTRIES)]
    for word in words[:-1]:
        await worker.say(word)
    await (worker.finish if ending else worker.say)(words[-1])
    feed.stale()
    assert await read(feed, PAGE_ENTRIES) == words
    if not ending:
        assert await feed.take(PATIENCE_S) is None
        await worker.finish("end")
        await hub.check([JOB])
        last = await feed.take(PATIENCE_S)
        assert last is not None
        assert (last.tokens, last.last) == ((token("end"),), PAGE_ENTRIES + 2)


@pytest.mark.parametrize("others", [0, 5, 20])
async def test_what_waits_for_a_reader_weighs_what_it_takes(hub: Hub, others: int) -> None:
    top = [(f"o{number}", -1.0 - number) for number in range(others)]
    tokens = [weighed(f"t{number}", -0.5, *top) if others else token(f"t{number}") for number in range(1000)]
    stored = [encode((each,)) for each in tokens]
    feed = hub.open(JOB)
    tracemalloc.start()
    try:
        for number, raw in enumerate(stored, start=1):
            feed.push(decode_entry(number, raw, b""))
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.8 * taken < feed.held_bytes < 1.25 * taken
    assert taken < 1.25 * FEED_BYTES


async def test_an_ending_that_was_missed(hub: Hub, performance: Scene) -> None:
    feed, worker = performance
    await worker.say("a")
    await hub.check([JOB])
    assert await read(feed, 1) == ["a"]
    await worker.finish("b")
    await hub.check([JOB])
    last = await feed.take(PATIENCE_S)
    assert last is not None
    assert last.ending == JobFinished(FinishReason.LENGTH, 1, 2)


@pytest.mark.parametrize("noticed", ["by a check", "by an attach"])
async def test_a_log_whose_tail_was_lost_is_read_from_there(hub: Hub, performance: Scene, noticed: str) -> None:
    # given a reader who is ahead of the log, as after a restart of the broker
    feed, worker = performance
    await worker.say("a", "b")
    feed.push(entry(1, "a", "b"))
    feed.push(entry(3, "c"))
    assert await read(feed, 3) == ["a", "b", "c"]
    # when that is noticed, and the log goes on
    if noticed == "by a check":
        await hub.check([JOB])
    else:
        feed.stale()
        assert await feed.take(PATIENCE_S) is None
    await worker.say("C", "D")
    await hub.check([JOB])
    # then the part that was lost comes again, for the reader to compare
    again = await feed.take(PATIENCE_S)
    assert again is not None
    assert again == entry(3, "C", "D")


async def test_a_finished_log_that_is_shorter_than_what_was_read(hub: Hub, performance: Scene) -> None:
    feed, worker = performance
    feed.push(entry(1, "a", "b", "c"))
    assert await read(feed, 3) == ["a", "b", "c"]
    await worker.finish("a")
    await hub.check([JOB])
    last = await feed.take(PATIENCE_S)
    assert last is not None
    assert (last.first, last.tokens) == (1, (token("a"),))
    assert last.ending is not None


async def test_a_finished_job_without_its_log(hub: Hub, performance: Scene, valkey: Valkey) -> None:
    feed, worker = performance
    await worker.finish("a")
    valkey.client.delete(f"{{p}}:log:{JOB}")
    await hub.check([JOB])
    with pytest.raises(CorollaError) as caught:
        await feed.take(PATIENCE_S)
    assert caught.value.code is Code.DISCONTINUITY


async def test_a_reader_who_comes_later_begins_after_its_cursor(hub: Hub, performance: Scene) -> None:
    _, worker = performance
    await worker.say("a", "b")
    await worker.finish("c")
    late = hub.open(JOB, after=1)
    late.confirm(known=True)
    first, second = await late.take(PATIENCE_S), await late.take(PATIENCE_S)
    assert first == entry(1, "a", "b")
    assert second is not None
    assert second.ending is not None


async def test_the_place_in_the_queue(broker: Broker, hub: Hub) -> None:
    feed = hub.open(JOB)
    await submit(broker, feed)
    await hub.check([JOB])
    assert feed.ahead == 1


async def test_readers_are_counted(hub: Hub) -> None:
    one, two = hub.open(JOB), hub.open(JOB)
    hub.close(one)
    assert hub.follows(JOB)
    with hub.hold(JOB):
        hub.close(two)
        assert hub.follows(JOB)
    assert not hub.follows(JOB)


async def test_a_held_job_is_followed(valkey: Valkey, player: Player) -> None:
    # given a job that no gateway follows but one that merely holds it
    timing = Timing(check_s=0.1, orphan_ms=400, grace_ms=200)
    async with Broker(valkey.url, timing) as broker:
        hub = Hub(broker, "g")
        await broker.submit(Submission(JOB, REQUEST, "gone", 60_000), Bounds())
        worker = await player.take()
        async with running(hub, valkey):
            with hub.hold(JOB):
                # then it is not given up
                for _ in range(10):
                    await hub.check([JOB])
                    await asyncio.sleep(0.1)
                    assert await worker.is_running()
            # until it is let go
            with hub.hold("cd" * 16):
                await until_async(lambda: valkey.client.hget(f"{{p}}:job:{JOB}", "state") == b"done")
    assert not await worker.is_running()


@pytest.mark.parametrize("position", [Position("running", 2, 0), Position("ready", 0, 0)])
async def test_an_old_answer_about_positions_changes_nothing(hub: Hub, position: Position) -> None:
    feed = hub.open(JOB)
    feed.push(LogEntry(1, (Token(1, "a"), Token(2, "b"), Token(3, "c")), None))
    feed.compare(position, seen=position.last)
    assert feed.seen == 3
