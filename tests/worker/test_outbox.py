"""Events reach the broker once and in order, whatever happens to it meanwhile."""

import asyncio
import tracemalloc

import pytest

from shared.broker import Broker
from shared.messages import FinishReason, JobFinished, JobRequest, Logprobs, Token
from shared.records import Append, Appended, Claim
from shared.sampling import SamplingParams
from tests.valkey import Valkey
from tests.worker.desk import CAPACITY, desk
from worker.metrics import Metrics
from worker.oracle_backend import OracleBackend
from worker.oracle_backend import text as oracle_text
from worker.outbox import MAX_UNSENT, Courier, Outbox

pytestmark = pytest.mark.anyio

COUNT = CAPACITY - 1


async def test_a_broker_that_was_killed_gets_what_it_missed(valkey: Valkey) -> None:
    async with desk(valkey, OracleBackend(step_ms=30)) as at:
        job = await at.start(sampling=SamplingParams(seed=1), max_new_tokens=COUNT)
        await at.tokens(job, 5)
        # when the broker is killed and started again
        valkey.kill()
        valkey.start()
        # then the log is complete
        assert await at.result(job) == (oracle_text(1, 0, COUNT), JobFinished(FinishReason.LENGTH, 2, COUNT))


async def test_a_lost_end_of_a_log_is_sent_again(valkey: Valkey) -> None:
    async with desk(valkey, OracleBackend(step_ms=30)) as at:
        job = await at.start(sampling=SamplingParams(seed=1), max_new_tokens=COUNT)
        log, state = f"{{p}}:log:{job}", f"{{p}}:job:{job}"
        await at.tokens(job, 3)
        with valkey.client.pipeline() as transaction:
            transaction.dump(log)
            transaction.hget(state, "last")
            before, last = transaction.execute()
        await at.tokens(job, 10)
        # when the broker forgets the last tokens
        with valkey.client.pipeline() as transaction:
            transaction.restore(log, 0, before, replace=True)
            transaction.hset(state, "last", last)
            transaction.execute()
        assert len((await at.log(job))[0]) < 10
        # then they come again
        assert await at.result(job) == (oracle_text(1, 0, COUNT), JobFinished(FinishReason.LENGTH, 2, COUNT))


async def test_a_job_runs_ahead_of_the_broker_only_so_far(valkey: Valkey) -> None:
    async with Broker(valkey.url) as broker:
        # given a courier that rests
        courier = Courier(broker, Metrics(()))
        claim = Claim("j", "1:x", JobRequest("m", SamplingParams()), 1000, (Token(1, "a"),), None)
        outbox = Outbox(claim, courier)
        for _ in range(MAX_UNSENT - 1):
            outbox.push(Token(2, "b"))
        await asyncio.wait_for(outbox.has_room(), 10)
        # when one token more waits
        outbox.push(Token(2, "b"))
        waiting = asyncio.create_task(outbox.has_room())
        await asyncio.sleep(0)
        assert not waiting.done()
        # then there is room again once the broker has some, or when nothing can be said any more
        outbox.answered(Appended("ok", 2, False))
        await asyncio.wait_for(waiting, 10)
        assert outbox.pending() == Append("j", "1:x", 3, (Token(2, "b"),) * (MAX_UNSENT - 1))
        outbox.push(Token(2, "b"))
        outbox.answered(Appended("fenced", 9, False))
        await asyncio.wait_for(outbox.is_empty(), 10)
        assert outbox.pending() is None


def outbox(broker: Broker, log: tuple[Token, ...] = ()) -> Outbox:
    """One whose courier rests."""
    return Outbox(
        Claim("j", "1:x", JobRequest("m", SamplingParams()), 1000, log, None), Courier(broker, Metrics(["m"]))
    )


def heavy(number: int) -> Token:
    """A token with as much as a client can ask for."""
    top = tuple((b"%d piece" % rank, -float(rank) / 7) for rank in range(20))
    return Token(number, f"{number:05} ", 0, Logprobs(b"%05d " % number, -0.5, top))


def say(box: Outbox, count: int) -> None:
    """So many tokens, which the broker takes as they come, but for the last ones."""
    for number in range(1, count + 1):
        box.push(heavy(number))
        if number % MAX_UNSENT == 0:
            box.answered(Appended("ok", number, False))


async def test_what_a_long_answer_keeps_is_bounded_and_what_was_lost_lately_comes_again(valkey: Valkey) -> None:
    async with Broker(valkey.url) as broker:
        say(outbox(broker), 5_000)  # fills what the interpreter keeps of objects that were freed
        box = outbox(broker)
        tracemalloc.start()
        try:
            # when an answer is long
            say(box, 5_000)
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # then it is not all kept
        assert grown <= 1 << 20
        # when the broker has lost the end of the log
        box.answered(Appended("gap", 4_500, False))
        # then that is sent again, and what it never had
        assert box.pending() == Append("j", "1:x", 4_501, tuple(heavy(number) for number in range(4_501, 5_001)))
        box.answered(Appended("ok", 5_000, False))
        assert (box.pending(), box.lost) == (None, False)


async def test_a_job_is_left_to_others_of_which_the_broker_lost_more_than_is_kept(valkey: Valkey) -> None:
    async with Broker(valkey.url) as broker:
        box = outbox(broker, tuple(heavy(number) for number in range(1, 5_001)))
        box.push(heavy(5_001))
        box.answered(Appended("gap", 5, False))
        assert box.lost
        assert box.pending() is None


async def test_an_ending_that_was_lost_comes_again(valkey: Valkey) -> None:
    async with Broker(valkey.url) as broker:
        box = outbox(broker, (Token(1, "a"),))
        box.push(Token(2, "b"))
        done = JobFinished(FinishReason.LENGTH)
        box.finish(done, None)
        assert box.pending() == Append("j", "1:x", 2, (Token(2, "b"),), done)
        box.answered(Appended("gap", 0, False))
        assert box.pending() == Append("j", "1:x", 1, (Token(1, "a"), Token(2, "b")), done)
        box.answered(Appended("ok", 3, False))
        assert box.pending() is None
        box.answered(Appended("ok", 1, False))
        assert box.pending() == Append("j", "1:x", 2, (Token(2, "b"),), done)
