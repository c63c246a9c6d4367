"""The broker's operations against a real server."""

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from shared.broker import INTERRUPTED, UNREADABLE, Broker
from shared.errors import BrokerUnavailable, Code, CorollaError
from shared.heart import Heart
from shared.keys import Timing
from shared.messages import Ending, FinishReason, JobFailed, JobFinished, JobRequest, LogEntry, Token, encode
from shared.records import (
    Append,
    Appended,
    Attached,
    Bounds,
    Busy,
    CancelJob,
    Claim,
    CloseSession,
    Gap,
    Missed,
    Position,
    Published,
    Registration,
    SessionCommit,
    SessionInfo,
    SessionSnapshot,
    Submission,
)
from shared.sampling import SamplingParams
from tests.valkey import Valkey

pytestmark = pytest.mark.anyio

MODEL = "corolla/oracle"
REQUEST = JobRequest(model=MODEL, sampling=SamplingParams(seed=7), prompt="hi", max_new_tokens=3)
DONE = JobFinished(FinishReason.LENGTH, prompt_tokens=2, completion_tokens=3)
CANCELLED = JobFinished(FinishReason.CANCELLED)
ONE, OTHER = Registration("w1", (MODEL,), 4), Registration("w2", (MODEL,), 4)
A, B, C = Token(10, "a"), Token(11, "b"), Token(12, "c")
# No lease, and no job, may end only because the machine had other things to do.
HOUR_MS = 3_600_000
DEADLINE_MS = 600_000
PATIENT = Timing(lease_ms=HOUR_MS, beat_s=60, orphan_ms=HOUR_MS, grace_ms=200)
PERMANENT = {"{p}:ready:corolla/oracle:" + lane for lane in ("resumed", "interactive", "batch")}


@pytest.fixture
def timing() -> Timing:
    """Of the broker; some tests have one of their own."""
    return PATIENT


@pytest.fixture
async def broker(valkey: Valkey, timing: Timing) -> AsyncIterator[Broker]:
    async with Broker(valkey.url, timing) as broker:
        yield broker


def job(name: str, session: str | None = None, tenant: str = "-") -> Submission:
    return Submission(name, REQUEST, "g1", DEADLINE_MS, tenant=tenant, session=session)


async def submit(broker: Broker, submission: Submission) -> None:
    assert await broker.submit(submission, Bounds()) == "accepted"


async def claim_one(broker: Broker, who: Registration = ONE) -> Claim:
    (claim,) = await broker.claim(who, 1, 0)
    return claim


async def append(
    broker: Broker, claim: Claim, first: int, tokens: tuple[Token, ...], ending: Ending | None = None
) -> Appended:
    (answer,) = await broker.append([Append(claim.job, claim.epoch, first, tokens, ending)])
    return answer


def keys(valkey: Valkey) -> set[str]:
    return {str(name, "utf-8") for name in valkey.client.scan_iter()}


def pending(valkey: Valkey) -> int:
    return sum(valkey.client.xpending(name, "workers")["pending"] for name in PERMANENT if valkey.client.exists(name))


async def test_a_job_from_submit_to_the_end(broker: Broker, valkey: Valkey) -> None:
    # given a job that a gateway follows
    await submit(broker, job("j1"))
    # when a worker claims it and writes its events
    claim = await claim_one(broker)
    assert (claim.job, claim.request, claim.log, claim.session) == ("j1", REQUEST, (), None)
    assert DEADLINE_MS - 60_000 < claim.remaining_ms <= DEADLINE_MS
    assert await append(broker, claim, 1, (A,)) == Appended("ok", 1, False)
    assert await append(broker, claim, 2, (B, C), DONE) == Appended("ok", 4, False)
    # then the log has them all, from any cursor
    assert await broker.attach("j1", "g1", 0) == Attached(
        "done", 4, (LogEntry(1, (A,), None), LogEntry(2, (B, C), DONE))
    )
    assert await broker.attach("j1", "g1", 2) == Attached("done", 4, (LogEntry(2, (B, C), DONE),))
    assert await broker.attach("j1", "g1", 4) == Attached("done", 4, ())
    # and what is left is the finished job, for as long as it may be asked for
    assert await broker.claim(ONE, 1, 0) == []
    assert keys(valkey) == PERMANENT | {
        "{p}:job:j1",
        "{p}:log:j1",
        "{p}:worker:w1",
        "{p}:workers",
        "{p}:serving:corolla/oracle",
        "{p}:worker:w1:jobs",
        "{p}:pace",
    }
    assert pending(valkey) == 0
    assert all(0 < valkey.client.pttl(name) <= 600_000 for name in ("{p}:job:j1", "{p}:log:j1"))


async def test_a_job_is_accepted_once(broker: Broker, valkey: Valkey) -> None:
    await submit(broker, job("j1"))
    assert await broker.submit(job("j1"), Bounds()) == "known"
    assert len(await broker.claim(ONE, 4, 0)) == 1
    assert await broker.submit(job("j1"), Bounds()) == "known"
    assert await broker.claim(OTHER, 4, 0) == []


async def test_a_note_stays_until_the_job_is_forgotten(broker: Broker) -> None:
    await submit(broker, dataclasses.replace(job("j1"), note=b"n\x00te"))
    await submit(broker, job("j2"))
    assert (await broker.note("j1"), await broker.note("j2"), await broker.note("j3")) == (b"n\x00te", b"", None)
    await append(broker, await claim_one(broker), 1, (A,), DONE)
    assert await broker.note("j1") == b"n\x00te"


async def test_a_gateway_hears_what_it_follows(broker: Broker, valkey: Valkey) -> None:
    # given a gateway that listens
    feed = broker.subscribe("g1")
    assert await anext(feed) == Gap()
    # when two jobs get events, of which it follows one
    await submit(broker, job("j1"))
    await submit(broker, Submission("j2", REQUEST, "g2", 60_000))
    one, two = await broker.claim(ONE, 2, 0)
    await append(broker, two, 1, (B,))
    await append(broker, one, 1, (A,))
    await append(broker, one, 2, (), DONE)
    # then it hears that one, and the gateway that nobody hears is forgotten
    assert await anext(feed) == Published("j1", LogEntry(1, (A,), None))
    assert await anext(feed) == Published("j1", LogEntry(2, (), DONE))
    assert valkey.client.smembers("{p}:sub:j2") == set()


async def test_a_subscription_survives_its_connection(broker: Broker, valkey: Valkey) -> None:
    feed = broker.subscribe("g1")
    assert await anext(feed) == Gap()
    valkey.client.client_kill_filter(_type="pubsub")
    assert await anext(feed) == Gap()


async def test_append_takes_each_event_once_and_in_order(broker: Broker, valkey: Valkey) -> None:
    await submit(broker, job("j1"))
    claim = await claim_one(broker)
    assert await append(broker, claim, 1, (A,)) == Appended("ok", 1, False)
    assert await append(broker, claim, 1, (A,)) == Appended("ok", 1, False)
    assert await append(broker, claim, 3, (C,)) == Appended("gap", 1, False)
    assert await append(broker, claim, 1, (A, B)) == Appended("gap", 1, False)
    assert await append(broker, claim, 2, (B,), DONE) == Appended("ok", 3, False)
    assert await append(broker, claim, 2, (B,), DONE) == Appended("ok", 3, False)
    assert await append(broker, claim, 4, (C,)) == Appended("fenced", 3, False)
    assert valkey.client.xlen("{p}:log:j1") == 2


async def test_append_to_an_unknown_job(broker: Broker) -> None:
    (answer,) = await broker.append([Append("nobody", "1:x", 1, (A,))])
    assert answer == Appended("gone", 0, False)


async def test_many_appends_are_one_round_trip_also_when_the_script_is_unknown(broker: Broker, valkey: Valkey) -> None:
    for name in ("j1", "j2", "j3"):
        await submit(broker, job(name))
    claims = await broker.claim(ONE, 3, 0)
    valkey.client.script_flush()
    answers = await broker.append([Append(claim.job, claim.epoch, 1, (A,)) for claim in claims])
    assert answers == [Appended("ok", 1, False)] * 3


async def test_a_worker_that_lost_its_lease_is_not_heard(broker: Broker, valkey: Valkey) -> None:
    # given a worker whose job went to another one because it was silent
    await submit(broker, job("j1"))
    zombie = await claim_one(broker, ONE)
    await append(broker, zombie, 1, (A,))
    valkey.client.delete("{p}:worker:w1")
    await broker.leave("w1")
    heir = await claim_one(broker, OTHER)
    assert (heir.job, heir.log, heir.epoch != zombie.epoch) == ("j1", (A,), True)
    # when it wakes up
    heart = Heart(valkey.url, ONE, broker.timing)
    beat = heart.beat([("j1", zombie.epoch)], 4)
    heart.close()
    # then nothing that it says counts, and it cannot take the job back
    assert (beat.fenced, beat.cancelled) == (frozenset({"j1"}), frozenset())
    assert await append(broker, zombie, 2, (B,)) == Appended("fenced", 1, False)
    assert [
        row["consumer"]
        for row in valkey.client.xpending_range("{p}:ready:corolla/oracle:resumed", "workers", "-", "+", 9)
    ] == [b"w2"]
    assert await append(broker, heir, 2, (C,), DONE) == Appended("ok", 3, False)


async def reap(broker: Broker) -> None:
    """As Broker.reap, although the server has just started."""
    await broker._link.run("reap", [broker.keys.workers], broker.timing.lease_ms, 0)


def age(valkey: Valkey, claim: Claim, by_ms: int) -> None:
    """Its worker has not beaten for it for so long."""
    client: Any = valkey.client
    stream, entry, owner = client.hmget(f"{{p}}:job:{claim.job}", "stream", "entry", "owner")
    client.xclaim(stream, "workers", owner, 0, [entry], idle=by_ms)


async def test_jobs_of_a_silent_worker_are_taken_from_it(broker: Broker, valkey: Valkey) -> None:
    # given a worker that holds one job and was sent another for a session of its own
    await broker.open_session("s1", MODEL, 64, 60_000, 9)
    await submit(broker, job("j1", session="s1"))
    first = await claim_one(broker)
    await append(broker, first, 1, (), DONE)
    await submit(broker, job("j2", session="s1"))
    await submit(broker, job("j3"))
    held = await broker.claim(ONE, 1, 0)
    assert [claim.job for claim in held] == ["j2"]
    await submit(broker, job("j4", session="s1"))
    # when it falls silent
    other = await claim_one(broker, OTHER)
    assert (other.job, await append(broker, other, 1, (), DONE)) == ("j3", Appended("ok", 1, False))
    assert 0 < valkey.client.pttl("{p}:worker:w1") <= broker.timing.lease_ms
    valkey.client.delete("{p}:worker:w1")
    await reap(broker)
    heir = await claim_one(broker, OTHER)
    # then others go on, the session in order
    assert (heir.job, heir.session) == ("j2", SessionSnapshot("s1", 64, [], 0))
    await append(broker, heir, 1, (), DONE)
    assert [claim.job for claim in await broker.claim(OTHER, 9, 0)] == ["j4"]
    assert valkey.client.hkeys("{p}:workers") == [b"w2"]


async def test_a_beat_keeps_a_lease(broker: Broker, valkey: Valkey) -> None:
    # given two jobs of one worker, each of which it has held for almost a lease
    await submit(broker, job("j1"))
    await submit(broker, job("j2"))
    kept, dropped = await broker.claim(ONE, 2, 0)
    for claim in (kept, dropped):
        age(valkey, claim, broker.timing.lease_ms - 60_000)
    await reap(broker)
    assert await broker.claim(OTHER, 4, 0) == []
    # when the lease of both has come to its end, but it beats for one of them
    for claim in (kept, dropped):
        age(valkey, claim, broker.timing.lease_ms)
    heart = Heart(valkey.url, ONE, broker.timing)
    assert heart.beat([(kept.job, kept.epoch)], 2).fenced == frozenset()
    heart.close()
    await reap(broker)
    # then the other one moves
    assert [claim.job for claim in await broker.claim(OTHER, 4, 0)] == [dropped.job]
    assert await append(broker, kept, 1, (A,)) == Appended("ok", 1, False)


async def test_no_job_is_taken_while_the_server_has_just_come_back(broker: Broker, valkey: Valkey) -> None:
    await submit(broker, job("j1"))
    await claim_one(broker)
    valkey.client.delete("{p}:worker:w1")
    await broker.reap()
    assert await broker.claim(OTHER, 1, 0) == []


@pytest.mark.parametrize("timing", [Timing(lease_ms=200)])
async def test_no_job_is_taken_while_another_server_has_just_taken_its_place(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([("one", 100), ("two", 500), ("two", 500), ("two", 501)])
    reaped: list[str] = []

    async def server() -> tuple[str, int]:
        return next(answers)

    async def run(name: str, *_: object) -> None:
        reaped.append(name)

    monkeypatch.setattr(broker._link, "server", server)
    monkeypatch.setattr(broker._link, "run", run)
    counts = []
    for _ in range(4):
        await broker.reap()
        counts.append(len(reaped))
    assert counts == [1, 1, 1, 2]


@pytest.mark.parametrize("timing", [Timing(lease_ms=200)])
async def test_no_job_is_taken_while_the_server_can_just_be_reached_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[int | None] = [100, None, 110, 110, 111]
    reaped: list[str] = []

    async def server() -> tuple[str, int]:
        uptime_s = answers.pop(0)
        if uptime_s is None:
            raise BrokerUnavailable
        return "one", uptime_s

    async def run(name: str, *_: object) -> None:
        reaped.append(name)

    monkeypatch.setattr(broker._link, "server", server)
    monkeypatch.setattr(broker._link, "run", run)
    counts = []
    while answers:
        with contextlib.suppress(BrokerUnavailable):
            await broker.reap()
        counts.append(len(reaped))
    assert counts == [1, 1, 1, 1, 2]


async def test_workers_look_for_lost_jobs_in_turn(broker: Broker, valkey: Valkey) -> None:
    # given a job whose worker is gone, just after somebody has looked
    await broker._link.run("reap", [broker.keys.workers], broker.timing.lease_ms, 60_000)
    await submit(broker, job("j1"))
    await claim_one(broker)
    valkey.client.delete("{p}:worker:w1")
    # when another one looks
    await broker._link.run("reap", [broker.keys.workers], broker.timing.lease_ms, 60_000)
    # then it leaves that to the first one, for that long
    assert await broker.claim(OTHER, 1, 0) == []
    valkey.client.delete("{p}:reaped")
    await broker._link.run("reap", [broker.keys.workers], broker.timing.lease_ms, 60_000)
    assert len(await broker.claim(OTHER, 1, 0)) == 1


async def test_draining_is_no_attempt(broker: Broker, valkey: Valkey) -> None:
    await submit(broker, job("j1"))
    for _ in range(10):
        claim = await claim_one(broker)
        await broker.requeue(ONE, [(claim.job, claim.epoch)])
    assert valkey.client.hget("{p}:job:j1", "stalls") == b"0"
    # nor where it was given a job that it has not heard of any more
    await claim_one(broker)
    await broker.leave("w1", has_drained=True)
    assert valkey.client.hget("{p}:job:j1", "stalls") == b"0"
    assert keys(valkey) - PERMANENT == {"{p}:job:j1", "{p}:sub:j1", "{p}:due"}


async def test_a_job_that_kills_its_workers_is_given_up(broker: Broker, valkey: Valkey) -> None:
    # given a job that got one token and then lost three workers in a row
    await submit(broker, job("j1"))
    claim = await claim_one(broker)
    await append(broker, claim, 1, (A,))
    for _ in range(3):
        await broker.leave("w1")
        claim = await claim_one(broker)
    # when the next one claims it
    await broker.leave("w1")
    assert await broker.claim(ONE, 1, 0) == []
    # then it has failed, and is noted
    attached = await broker.attach("j1", "g1", 1)
    assert attached is not None
    (entry,) = attached.entries
    assert isinstance(entry.ending, JobFailed)
    assert (attached.state, entry.first, entry.ending.code) == ("done", 2, Code.POISON)
    assert [fields for _, fields in valkey.client.xrange("{p}:dead") or []] == [{b"job": b"j1"}]


async def test_jobs_that_gave_no_token_yet_go_on_together_and_only_the_last_trial_is_alone(broker: Broker) -> None:
    names = ["j1", "j2", "j3"]
    for name in names:
        await submit(broker, job(name))
    # given a worker that is killed while it feeds their prompts, and another one
    for who in (ONE, OTHER):
        assert sorted(claim.job for claim in await broker.claim(who, 9, 0)) == names
        await broker.leave(who.worker)
    # then one of them may be what they died of
    claims = await broker.claim(ONE, 9, 0)
    assert len(claims) == 1
    assert await broker.claim(ONE, 9, 0) == []
    # until it has a token
    await append(broker, claims[0], 1, (A,))
    assert len(await broker.claim(ONE, 9, 0)) == 1


async def test_a_job_that_no_worker_can_read_fails_at_once(broker: Broker, valkey: Valkey) -> None:
    await submit(broker, job("j1"))
    await submit(broker, job("j2"))
    valkey.client.hset("{p}:job:j1", "request", b"\x80")
    assert [claim.job for claim in await broker.claim(ONE, 9, 0)] == ["j2"]
    ending = (await finished(broker, "j1")).ending
    assert isinstance(ending, JobFailed)
    assert ending.code is Code.INTERNAL


async def test_cancel_while_waiting_ends_a_job_at_once(broker: Broker, valkey: Valkey) -> None:
    await submit(broker, job("j1"))
    await broker.cancel("j1")
    assert await broker.attach("j1", "g1", 0) == Attached("done", 1, (LogEntry(1, (), CANCELLED),))
    assert await broker.claim(ONE, 1, 0) == []
    assert valkey.client.exists("{p}:waiting", "{p}:due", "{p}:ring:corolla/oracle:interactive") == 0


async def test_cancel_while_running_reaches_the_worker_by_every_way(broker: Broker, valkey: Valkey) -> None:
    await submit(broker, job("j1"))
    claim = await claim_one(broker)
    words = broker.control("w1")
    heard = asyncio.ensure_future(anext(words))
    while not valkey.client.pubsub_numsub("{p}:control:w1")[0][1]:
        await asyncio.sleep(0.01)
    await broker.cancel("j1")
    assert await heard == CancelJob("j1")
    assert await append(broker, claim, 1, (A,)) == Appended("ok", 1, True)
    heart = Heart(valkey.url, ONE, broker.timing)
    assert heart.beat([("j1", claim.epoch)], 1).cancelled == {"j1"}
    heart.close()


async def test_a_cancelled_job_whose_worker_is_gone_ends_all_the_same(broker: Broker) -> None:
    # given a job that is followed, whose worker is gone, as is every other one
    await submit(broker, job("j1"))
    await append(broker, await claim_one(broker), 1, (A,))
    await broker.cancel("j1")
    # then it ends, although a gateway follows it
    while (await broker.positions("g1", ["j1"]))["j1"].state != "done":
        await broker.sweep()
        await asyncio.sleep(0.02)
    assert (await finished(broker, "j1")) == LogEntry(2, (), CANCELLED)


async def test_an_event_that_another_version_wrote(broker: Broker, valkey: Valkey) -> None:
    await submit(broker, job("j1"))
    events = broker.subscribe("g1")
    heard = asyncio.ensure_future(anext(events))
    assert isinstance(await heard, Gap)
    valkey.client.publish("{p}:gateway:g1", b"j1 1 0\n\x80")
    assert await anext(events) == Missed("j1")
    valkey.client.xadd("{p}:log:j1", {"t": b"", "e": b"\x80"}, id="1-0")
    with pytest.raises(CorollaError, match="does not understand the answer") as refused:
        await broker.attach("j1", "g1", 0)
    assert refused.value.code is Code.INTERNAL


@pytest.mark.parametrize("field", ["top_k", "seed"])
async def test_a_request_that_another_version_allows_fails_in_words_and_alone(
    broker: Broker, valkey: Valkey, field: str
) -> None:
    await submit(broker, job("j1"))
    await submit(broker, job("j2"))
    wider = msgspec.msgpack.decode(encode(job("j1").request))
    wider["sampling"][field] = -1
    valkey.client.hset("{p}:job:j1", "request", msgspec.msgpack.encode(wider))
    assert [claim.job for claim in await broker.claim(ONE, 2, 0)] == ["j2"]
    assert await finished(broker, "j1") == LogEntry(1, (), UNREADABLE)


async def test_what_nobody_has_room_for_is_not_decoded(broker: Broker, valkey: Valkey) -> None:
    for name in ("j1", "j2"):
        await submit(broker, job(name))
    events = broker.subscribe("g1", lambda name: name == "j2")
    assert await anext(events) == Gap()
    for claim in await broker.claim(ONE, 9, 0):
        await append(broker, claim, 1, (A,))
    found = {event.job: event async for event in _first(events, 2) if not isinstance(event, Gap)}
    assert found == {"j1": Missed("j1"), "j2": Published("j2", LogEntry(1, (A,), None))}


async def _first(
    events: AsyncIterator[Published | Missed | Gap], count: int
) -> AsyncIterator[Published | Missed | Gap]:
    for _ in range(count):
        yield await anext(events)


async def test_detach_ends_only_what_nobody_else_follows(broker: Broker, valkey: Valkey) -> None:
    await submit(broker, job("j1"))
    await broker.attach("j1", "g2", 0)
    # given that one of two gateways leaves
    await broker.detach("j1", "g1")
    assert valkey.client.hget("{p}:job:j1", "unfollowed") is None
    # when the other one does, but says within the grace that it follows
    await broker.detach("j1", "g2")
    assert valkey.client.hget("{p}:job:j1", "unfollowed") == b"1"
    await broker.positions("g2", ["j1"])
    assert valkey.client.hget("{p}:job:j1", "unfollowed") is None
    assert _due_in_ms(valkey, "j1") > DEADLINE_MS - 60_000
    # when it leaves for good
    await broker.detach("j1", "g2")
    assert _due_in_ms(valkey, "j1") <= broker.timing.grace_ms
    assert await finished(broker, "j1") == LogEntry(1, (), INTERRUPTED)


def _let_pass(valkey: Valkey, name: str) -> None:
    """The job's deadline is this moment."""
    now_s, micros = valkey.client.time()
    now_ms = now_s * 1000 + micros // 1000
    valkey.client.hset(f"{{p}}:job:{name}", "deadline", now_ms)
    valkey.client.zadd("{p}:due", {name: now_ms})


def _due_in_ms(valkey: Valkey, name: str) -> float:
    seconds, micros = valkey.client.time()
    due = valkey.client.zscore("{p}:due", name)
    assert due is not None
    return due - seconds * 1000 - micros / 1000


async def test_bounds(broker: Broker, valkey: Valkey) -> None:
    bounds = Bounds(tenant=2, total=3)
    for name, tenant in (("j1", "x"), ("j2", "x"), ("j3", "y")):
        assert await broker.submit(job(name, tenant=tenant), bounds) == "accepted"
    with pytest.raises(Busy) as refused:
        await broker.submit(job("j4", tenant="x"), bounds)
    assert (refused.value.code, refused.value.depth) == (Code.TENANT_BUSY, 2)
    with pytest.raises(Busy) as refused:
        await broker.submit(job("j4", tenant="z"), bounds)
    assert (refused.value.code, refused.value.depth) == (Code.BUSY, 3)
    assert len(await broker.claim(ONE, 4, 0)) == 3
    assert valkey.client.exists("{p}:waiting", "{p}:job:j4") == 0


@pytest.mark.parametrize(
    ("bounds", "code"), [(Bounds(tenant=3), Code.TENANT_BUSY), (Bounds(total=3, requests_per_min=9), Code.BUSY)]
)
async def test_a_request_waits_as_a_whole(broker: Broker, valkey: Valkey, bounds: Bounds, code: Code) -> None:
    # given three jobs that may wait, and two that do
    for name in ("j1", "j2"):
        await submit(broker, job(name))
    # when there is room for only one of a request's two, then none is accepted, nor counted
    first, second = dataclasses.replace(job("k1"), prompts=2), dataclasses.replace(job("k2"), prompts=0)
    with pytest.raises(Busy) as refused:
        await broker.submit(first, bounds)
    assert (refused.value.code, refused.value.depth) == (code, 2)
    assert valkey.client.exists("{p}:job:k1", "{p}:rate:requests:-") == 0
    # and both are where there is room for both
    await broker.cancel("j1")
    assert [await broker.submit(each, bounds) for each in (first, second)] == ["accepted", "accepted"]
    with pytest.raises(Busy):
        await broker.submit(dataclasses.replace(second, id="k3"), bounds)


async def test_a_request_of_more_jobs_than_may_wait_begins_where_none_does(broker: Broker) -> None:
    many = dataclasses.replace(job("j1"), prompts=9)
    assert await broker.submit(many, Bounds(tenant=2)) == "accepted"
    with pytest.raises(Busy, match="You have 1 requests waiting"):
        await broker.submit(dataclasses.replace(many, id="k1"), Bounds(tenant=2))


async def test_a_refusal_tells_how_long_those_before_take(broker: Broker, valkey: Valkey) -> None:
    # given a model whose answers take about 800 ms, and two workers with four slots each
    valkey.client.hset("{p}:pace", MODEL, "800")
    assert await broker.claim(ONE, 0, 0) == await broker.claim(OTHER, 0, 0) == []
    for number in range(10):
        await submit(broker, job(f"j{number}"))
    # when one is refused
    with pytest.raises(Busy) as refused:
        await broker.submit(job("late"), Bounds(tenant=10))
    # then it is told what ten answers take on eight slots
    assert (refused.value.depth, refused.value.wait_ms) == (10, 1000)


async def test_the_mean_time_of_a_models_answers(broker: Broker, valkey: Valkey) -> None:
    def pace() -> float:
        return float(valkey.client.hget("{p}:pace", MODEL) or 0)

    await submit(broker, job("j1"))
    claim = await claim_one(broker)
    started = int(valkey.client.hget("{p}:job:j1", "started") or 0)
    valkey.client.hset("{p}:job:j1", "started", started - 160_000)
    await append(broker, claim, 1, (A,), DONE)
    first = pace()
    assert 160_000 <= first < 320_000
    # a job that was not answered does not count, and another one counts for a sixteenth
    await submit(broker, job("j2"))
    await broker.cancel("j2")
    assert pace() == first
    await submit(broker, job("j3"))
    await append(broker, await claim_one(broker), 1, (A,), DONE)
    assert first * 15 / 16 <= pace() < first


async def test_a_heavy_tenant_takes_no_more_than_its_turn(broker: Broker) -> None:
    # given one tenant with eighty times the load of nine others, that all keep asking
    two = Registration("w1", (MODEL,), 2)
    assert await broker.claim(two, 2, 0) == []
    for number in range(250):
        await submit(broker, job(f"heavy{number}", tenant="heavy"))
    for tenant in range(9):
        for number in range(3):
            await submit(broker, job(f"{tenant}-{number}", tenant=str(tenant)))
    # when fewer jobs are done than there are
    order: list[str] = []
    while len(order) < 34:
        for claim in await broker.claim(two, 2, 0):
            order.append(claim.job)
            await append(broker, claim, 1, (A,), DONE)
    # then, after what was ready before the others came, each round gives everybody one job
    ready = ["heavy0", "heavy1", "heavy2", "heavy3"]
    rounds = [[f"heavy{4 + number}", *(f"{tenant}-{number}" for tenant in range(9))] for number in range(3)]
    assert order == [*ready, *itertools.chain.from_iterable(rounds)]


async def test_tenants_take_turns(broker: Broker) -> None:
    for name, tenant in (("x1", "x"), ("x2", "x"), ("x3", "x"), ("y1", "y"), ("z1", "z")):
        await submit(broker, job(name, tenant=tenant))
    assert [claim.job for claim in await broker.claim(ONE, 9, 0)] == ["x1", "y1", "z1", "x2", "x3"]


async def test_batch_jobs_wait_for_interactive_ones(broker: Broker) -> None:
    await submit(broker, Submission("late", REQUEST, "g1", 60_000, priority="batch"))
    await submit(broker, job("soon"))
    assert [claim.job for claim in await broker.claim(ONE, 9, 0)] == ["soon", "late"]


async def test_batch_jobs_that_lie_ready_do_not_hold_up_interactive_ones(broker: Broker) -> None:
    # given a worker with two slots, both taken by batch jobs, of which more lie ready for it
    who = Registration("w1", (MODEL,), 2)
    assert await broker.claim(who, 2, 0) == []
    for number in range(6):
        await submit(broker, Submission(f"late{number}", REQUEST, "g1", 60_000, priority="batch"))
    assert [claim.job for claim in await broker.claim(who, 2, 0)] == ["late0", "late1"]
    # when an interactive one comes
    await submit(broker, job("soon"))
    # then it is the next
    assert [claim.job for claim in await broker.claim(who, 1, 0)] == ["soon"]


async def test_users_take_turns_within_their_tenants_turns(broker: Broker, valkey: Valkey) -> None:
    for name, tenant, user in (("x1", "x", "a"), ("x2", "x", "a"), ("x3", "x", "b"), ("y1", "y", ""), ("y2", "y", "")):
        await submit(broker, dataclasses.replace(job(name, tenant=tenant), user=user))
    assert valkey.client.hgetall("{p}:waiting") == {b"x": b"3", b"y": b"2", b"*": b"5"}
    assert [claim.job for claim in await broker.claim(ONE, 9, 0)] == ["x1", "y1", "x3", "y2", "x2"]
    assert valkey.client.exists("{p}:waiting", "{p}:ring:corolla/oracle:interactive") == 0
    assert list(valkey.client.scan_iter("{p}:ring*")) == []


async def test_a_tenant_with_many_users_is_one_tenant(broker: Broker) -> None:
    bounds = Bounds(tenant=2, total=10)
    for number in range(2):
        submission = dataclasses.replace(job(f"j{number}", tenant="x"), user=str(number))
        assert await broker.submit(submission, bounds) == "accepted"
    with pytest.raises(Busy, match="You have 2 requests waiting"):
        await broker.submit(dataclasses.replace(job("j2", tenant="x"), user="2"), bounds)


async def _own(broker: Broker, who: Registration, *names: str) -> None:
    """Sessions that this worker owns."""
    for name in names:
        await broker.open_session(name, MODEL, 64, 60_000, 9)
        await submit(broker, job(f"{name}-0", name))
        await append(broker, await claim_one(broker, who), 1, (A,), DONE)


async def test_turns_of_sessions_are_bounded_like_all_jobs(broker: Broker) -> None:
    # given a worker without a free slot, that owns sessions
    await _own(broker, ONE, "s1", "s2", "s3")
    await submit(broker, job("j"))
    assert [claim.job for claim in await broker.claim(dataclasses.replace(ONE, slots=1), 1, 0)] == ["j"]
    # when they go on
    bounds = Bounds(tenant=2, total=9)
    for name in ("s1", "s2"):
        assert await broker.submit(job(f"{name}-1", name), bounds) == "accepted"
    with pytest.raises(Busy, match="You have 2 requests waiting"):
        await broker.submit(job("s3-1", "s3"), bounds)


async def test_sessions_that_go_on_do_not_take_every_slot(broker: Broker) -> None:
    # given a worker with one slot, and three sessions that it owns, each of which goes on whenever its turn has ended
    who = Registration("w1", (MODEL,), 1)
    sessions = ("s1", "s2", "s3")
    await _own(broker, who, *sessions)
    for name in sessions:
        await submit(broker, job(f"{name}-1", name, tenant="x"))
    # when somebody else asks
    await submit(broker, job("other", tenant="y"))
    claimed = []
    for turn in range(2, 8):
        claim = await claim_one(broker, who)
        claimed.append(claim.job)
        await append(broker, claim, 1, (A,), DONE)
        if claim.session:
            await submit(broker, job(f"{claim.session.id}-{turn}", claim.session.id, tenant="x"))
    # then it has its turn after those that came before it
    assert claimed.index("other") == 3, claimed


async def test_a_session_goes_on_elsewhere_where_its_worker_is_full(broker: Broker) -> None:
    await _own(broker, ONE, "s1")
    await submit(broker, job("j"))
    assert [claim.job for claim in await broker.claim(dataclasses.replace(ONE, slots=1), 1, 0)] == ["j"]
    assert await broker.claim(OTHER, 4, 0) == []
    await submit(broker, job("s1-1", "s1"))
    assert [claim.job for claim in await broker.claim(OTHER, 4, 0)] == ["s1-1"]


async def test_a_slot_is_free_as_soon_as_its_answer_has_ended(broker: Broker, valkey: Valkey) -> None:
    await submit(broker, job("j1"))
    claim = await claim_one(broker, Registration("w1", (MODEL,), 1))
    assert valkey.client.hget("{p}:worker:w1", "free") == b"0"
    await append(broker, claim, 1, (A,), DONE)
    assert valkey.client.hget("{p}:worker:w1", "free") == b"1"
    # but a worker that is gone does not come to life by that
    await submit(broker, job("j2"))
    claim = await claim_one(broker, Registration("w1", (MODEL,), 1))
    valkey.client.delete("{p}:worker:w1")
    await append(broker, claim, 1, (A,), DONE)
    assert valkey.client.exists("{p}:worker:w1") == 0


async def test_ready_streams_hold_at_most_twice_the_free_slots(broker: Broker, valkey: Valkey) -> None:
    assert await broker.claim(Registration("w1", (MODEL,), 2), 2, 0) == []
    for number in range(10):
        await submit(broker, job(f"j{number}"))
    assert valkey.client.xlen("{p}:ready:corolla/oracle:interactive") == 4
    assert valkey.client.hgetall("{p}:waiting") == {b"-": b"6", b"*": b"6"}


async def test_all_jobs_that_no_worker_has_are_counted(broker: Broker, valkey: Valkey) -> None:
    # given a worker with a job, and with a session whose next jobs wait for it, one after the other
    await submit(broker, job("held"))
    await claim_one(broker)
    await broker.open_session("s1", MODEL, 64, 60_000, 9)
    await submit(broker, job("first", session="s1"))
    first = await claim_one(broker)
    assert (await append(broker, first, 1, (A,), DONE)).status == "ok"
    await submit(broker, job("own", session="s1"))
    await submit(broker, job("turn", session="s1"))
    # and one that another worker left, and three more, of which two may be claimed
    await submit(broker, job("left"))
    assert (await claim_one(broker, OTHER)).job == "left"
    await broker.leave("w2")
    heart = Heart(valkey.url, ONE, broker.timing)
    heart.beat([], 1)
    heart.close()
    for number in range(3):
        await submit(broker, job(f"j{number}"))
    # then, where one stream also has what is held
    streams = ["worker:w1:jobs", "ready:corolla/oracle:resumed", "ready:corolla/oracle:interactive"]
    assert [valkey.client.xlen(f"{{p}}:{stream}") for stream in streams] == [1, 1, 3]
    assert valkey.client.hget("{p}:waiting", "*") == b"2"
    assert await broker.census([MODEL]) == (7, 6, 1, 0)
    assert (await broker.overview([MODEL])).waiting == 6
    # when one of them is claimed
    assert (await claim_one(broker)).job == "left"
    # then
    assert await broker.census([MODEL]) == (7, 5, 1, 0)


async def test_a_waiting_worker_is_woken(broker: Broker) -> None:
    waiting = asyncio.ensure_future(broker.claim(ONE, 4, 10_000))
    while not (await broker.live_workers([MODEL]))[MODEL]:
        await asyncio.sleep(0.01)
    await submit(broker, job("j1"))
    assert [claim.job for claim in await waiting] == ["j1"]


async def test_positions(broker: Broker) -> None:
    for name in ("j1", "j2", "j3"):
        await submit(broker, job(name))
    claim = await claim_one(broker)
    await append(broker, claim, 1, (A, B))
    assert await broker.positions("g1", ["j1", "j2", "j3", "no"]) == {
        "j1": Position("running", 2, 0),
        "j2": Position("ready", 0, 0),
        "j3": Position("waiting", 0, 2),
        "no": Position("gone", 0, 0),
    }


async def finished(broker: Broker, name: str) -> LogEntry:
    while True:
        await broker.sweep()
        attached = await broker.attach(name, "late", 0)
        assert attached is not None
        if attached.state == "done":
            return attached.entries[-1]
        await asyncio.sleep(0.02)


async def test_a_job_past_its_deadline_ends(broker: Broker, valkey: Valkey) -> None:
    await submit(broker, job("runs"))
    running = await claim_one(broker)
    await submit(broker, job("waits"))
    for name in ("waits", "runs"):
        assert 0 < _due_in_ms(valkey, name) <= DEADLINE_MS
        _let_pass(valkey, name)
        ending = (await finished(broker, name)).ending
        assert isinstance(ending, JobFailed)
        assert ending.code is Code.DEADLINE
    assert await append(broker, running, 1, (A,)) == Appended("fenced", 1, False)
    assert valkey.client.exists("{p}:due") == 0


@pytest.mark.parametrize("timing", [dataclasses.replace(PATIENT, orphan_ms=300)])
async def test_a_job_that_nobody_follows_ends_in_words(broker: Broker, valkey: Valkey) -> None:
    await submit(broker, job("waits"))
    await submit(broker, job("runs"))
    (running,) = [claim for claim in await broker.claim(ONE, 9, 0) if claim.job == "runs"]
    await append(broker, running, 1, (A,))
    # Whoever comes back too late must not take what was written for the whole answer.
    assert await finished(broker, "waits") == LogEntry(1, (), INTERRUPTED)
    assert await finished(broker, "runs") == LogEntry(2, (), INTERRUPTED)
    assert await append(broker, running, 2, (B,)) == Appended("fenced", 2, False)
    assert pending(valkey) == 0


async def test_a_job_is_not_given_up_because_the_broker_was_away(broker: Broker, valkey: Valkey) -> None:
    # given that no gateway could say for long that it follows
    await submit(broker, job("j1"))
    valkey.client.zadd("{p}:due", {"j1": 1})
    # when somebody else is the first to look after that
    await broker.sweep()
    # then the gateway has a while to say so
    await broker.positions("g1", ["j1"])
    await broker.sweep()
    assert valkey.client.hmget("{p}:job:j1", "state", "unfollowed") == [b"waiting", None]
    assert _due_in_ms(valkey, "j1") > DEADLINE_MS - 60_000


async def test_a_session_over_two_workers(broker: Broker, valkey: Valkey) -> None:
    # given a session with one answered call
    await broker.open_session("s1", MODEL, 64, 60_000, 9)
    assert await broker.session("s1") == SessionInfo("s1", MODEL, 64)
    await submit(broker, job("j1", session="s1"))
    claim = await claim_one(broker)
    assert claim.session == SessionSnapshot("s1", 64, [], 0)
    commit = Append("j1", claim.epoch, 1, (A,), DONE, SessionCommit([5, 70_000], 1))
    await broker.append([commit])
    await broker.append([commit])
    # when its owner is gone and the next call comes
    await broker.leave("w1")
    await submit(broker, job("j2", session="s1"))
    claim = await claim_one(broker, OTHER)
    # then the other worker gets what was committed, once
    assert claim.session == SessionSnapshot("s1", 64, [5, 70_000], 1)
    await append(broker, claim, 1, (), JobFailed(Code.SWARM, "no"))
    # and a call that failed commits nothing; the owner gets the next one in its own stream
    await submit(broker, job("j3", session="s1"))
    assert valkey.client.xlen("{p}:worker:w2:jobs") == 1
    assert (await claim_one(broker, OTHER)).session == SessionSnapshot("s1", 64, [5, 70_000], 1)


@pytest.mark.parametrize("rounds", [0, 1])
async def test_a_dialogue_that_comes_back_does_not_wait_for_its_worker_while_another_one_is_free(
    broker: Broker, valkey: Valkey, rounds: int
) -> None:
    # given a worker that has one slot left and owns a session, and a turn of it and another job, either first in turn
    await broker.claim(OTHER, 0, 0)
    await broker.open_session("s1", MODEL, 64, 60_000, 9)
    await submit(broker, job("j1", session="s1"))
    await append(broker, await claim_one(broker), 1, (A,), DONE)
    await submit(broker, job("turn", session="s1"))
    assert valkey.client.xlen("{p}:worker:w1:jobs") == 1
    await submit(broker, job("other"))
    valkey.client.hset("{p}:worker:w1", "round", rounds)
    # then it takes one, and whoever has a slot the other one
    assert {(await claim_one(broker)).job, (await claim_one(broker, OTHER)).job} == {"turn", "other"}


async def test_dialogues_that_come_back_to_the_only_worker_do_not_keep_everybody_else_out(broker: Broker) -> None:
    # given dialogues of this worker that go on at once whenever they have been answered, and one slot
    turns = (job(f"turn{number}", session=f"s{number % 3}") for number in itertools.count())
    for number in range(3):
        await broker.open_session(f"s{number}", MODEL, 64, 60_000, 9)
        await submit(broker, next(turns))
        await append(broker, await claim_one(broker), 1, (), DONE)
    for _ in range(3):
        await submit(broker, next(turns))
    # when somebody else asks
    await submit(broker, job("other"))
    order = []
    while "other" not in order:
        claim = await claim_one(broker)
        order.append(claim.job)
        await submit(broker, next(turns))
        await append(broker, claim, 1, (), DONE)
        # then it is served before long
        assert len(order) <= 8


async def test_a_session_that_lost_a_turn_does_not_go_on_as_if_nothing_was(broker: Broker, valkey: Valkey) -> None:
    # given a session with two turns, one of which was cancelled in line
    await broker.open_session("s1", MODEL, 64, 60_000, 9)
    await submit(broker, job("j1", "s1"))
    claim = await claim_one(broker)
    await submit(broker, job("j2", "s1"))
    await broker.cancel("j2")
    await append(broker, claim, 1, (A,), DONE)
    assert await broker.session("s1") == SessionInfo("s1", MODEL, 64, 2)
    # when the broker has lost what its client saw
    valkey.client.hincrby("{p}:session:s1", "ended", -1)
    # then the client is told, and another one, who has not seen it, goes on
    with pytest.raises(CorollaError, match="cannot go on exactly") as refused:
        await broker.submit(dataclasses.replace(job("j3", "s1"), turns=2), Bounds())
    assert refused.value.code is Code.DISCONTINUITY
    assert valkey.client.exists("{p}:job:j3") == 0
    await submit(broker, dataclasses.replace(job("j3", "s1"), turns=1))


async def test_calls_of_a_session_take_turns(broker: Broker, valkey: Valkey) -> None:
    await broker.open_session("s1", MODEL, 64, 60_000, 9)
    for name in ("j1", "j2", "j3"):
        await submit(broker, job(name, session="s1"))
    for name in ("j1", "j2"):
        (claim,) = await broker.claim(ONE, 9, 0)
        assert claim.job == name
        await append(broker, claim, 1, (), DONE)
    await broker.cancel("j3")
    assert await broker.claim(ONE, 9, 0) == []
    assert valkey.client.exists("{p}:waiting", "{p}:session:s1:turns") == 0
    assert 50_000 < valkey.client.pttl("{p}:session:s1") <= 60_000


async def test_closing_a_session_ends_its_jobs_and_tells_the_owner(broker: Broker, valkey: Valkey) -> None:
    await broker.open_session("s1", MODEL, 64, 60_000, 9)
    await submit(broker, job("j1", session="s1"))
    claim = await claim_one(broker)
    await submit(broker, job("j2", session="s1"))
    words = broker.control("w1")
    heard = asyncio.ensure_future(anext(words))
    while not valkey.client.pubsub_numsub("{p}:control:w1")[0][1]:
        await asyncio.sleep(0.01)
    await broker.close_session("s1")
    assert [await heard, await anext(words)] == [CancelJob("j1"), CloseSession("s1")]
    assert await append(broker, claim, 1, (A,), DONE) == Appended("ok", 2, True)
    assert [name for name in keys(valkey) if "session" in name] == []
    with pytest.raises(CorollaError, match="Session 's1' expired or does not exist"):
        await broker.submit(job("j3", session="s1"), Bounds())
    await broker.close_session("s1")


async def test_a_session_that_moves_is_freed_by_its_former_owner(broker: Broker, valkey: Valkey) -> None:
    # given a session whose worker took two turns of it, and has no slot for the next one
    await broker.open_session("s1", MODEL, 64, 60_000, 9)
    words = broker.control("w1")
    heard = asyncio.ensure_future(anext(words))
    while not valkey.client.pubsub_numsub("{p}:control:w1")[0][1]:
        await asyncio.sleep(0.01)
    for name in ("j1", "j2"):
        await submit(broker, job(name, session="s1"))
        await append(broker, await claim_one(broker), 1, (), DONE)
    await submit(broker, job("j3"))
    await claim_one(broker)
    # when another one takes it
    await submit(broker, job("j4", session="s1"))
    assert (await claim_one(broker, OTHER)).job == "j4"
    # then the former one is told of that, and had not been told anything
    await broker.cancel("j3")
    assert await heard == CloseSession("s1")
    assert await anext(words) == CancelJob("j3")


async def test_the_number_of_open_sessions_is_bounded(broker: Broker) -> None:
    await broker.open_session("s1", MODEL, 64, 50, 2)
    await broker.open_session("s2", MODEL, 64, 60_000, 2)
    await broker.open_session("s2", MODEL, 64, 60_000, 2)
    with contextlib.suppress(CorollaError):
        await broker.open_session("s3", MODEL, 64, 60_000, 2)
    while await broker.session("s3") is None:
        with contextlib.suppress(CorollaError):
            await broker.open_session("s3", MODEL, 64, 60_000, 2)
    with pytest.raises(CorollaError, match=r"Too many opened inference sessions \(max 2\), please come back later"):
        await broker.open_session("s4", MODEL, 64, 60_000, 2)


async def test_a_server_that_does_not_answer(valkey: Valkey) -> None:
    valkey.stop()
    try:
        async with Broker(valkey.url) as broker:
            with pytest.raises(BrokerUnavailable):
                await broker.ping()
            with pytest.raises(BrokerUnavailable):
                await broker.append([Append("j1", "1:x", 1, (A,))])
    finally:
        valkey.start()


async def test_what_was_written_survives_a_killed_server(broker: Broker, valkey: Valkey) -> None:
    # given a running job
    feed = broker.subscribe("g1")
    assert await anext(feed) == Gap()
    await submit(broker, job("j1"))
    claim = await claim_one(broker)
    await append(broker, claim, 1, (A,))
    assert await anext(feed) == Published("j1", LogEntry(1, (A,), None))
    # when the server is killed and comes back
    valkey.client.bgrewriteaof()
    while valkey.client.info("persistence")["aof_rewrite_in_progress"]:
        await asyncio.sleep(0.01)
    valkey.write_through()
    valkey.kill()
    valkey.start()
    # then the subscription is made again and the worker goes on
    assert await anext(feed) == Gap()
    assert await append(broker, claim, 2, (B,), DONE) == Appended("ok", 3, False)
    assert await broker.attach("j1", "g1", 1) == Attached("done", 3, (LogEntry(2, (B,), DONE),))
