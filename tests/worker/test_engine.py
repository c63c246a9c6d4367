"""Jobs are decoded to their ending, side by side, and the broker has every event."""

import asyncio
from typing import Any

import pytest

from shared.errors import Code
from shared.messages import FinishReason, JobFailed, JobFinished, Token
from shared.records import Append
from shared.sampling import SamplingParams
from tests.valkey import Valkey
from tests.waiting import until_async
from tests.worker.alphabets import byte_level
from tests.worker.desk import CAPACITY, Desk, desk
from tests.worker.scripted import ScriptedBackend
from worker.oracle_backend import OracleBackend
from worker.oracle_backend import text as oracle_text
from worker.oracle_backend import token as oracle_token

pytestmark = pytest.mark.anyio

TOKENIZER = byte_level()
HI = len(TOKENIZER.encode("hi", True))


def finished(reason: FinishReason, prompt: int, completion: int) -> JobFinished:
    return JobFinished(reason, prompt, completion)


def kept(reason: FinishReason, prompt: int, completion: int) -> JobFinished:
    """The same for a job whose session now holds it."""
    return JobFinished(reason, prompt, completion, kept=True)


def backend(text: str) -> ScriptedBackend:
    return ScriptedBackend(TOKENIZER, text)


async def committed(at: Desk, session: str) -> tuple[list[int], int]:
    """The session's ids and held, as a next job would find them."""
    job = await at.submit(session)
    claim = await at.claim()
    assert claim.session is not None
    await at.broker.requeue(at.who, [(job, claim.epoch)])
    await at.broker.cancel(job)
    return claim.session.ids, claim.session.held


async def test_a_job_is_decoded_to_its_end(valkey: Valkey) -> None:
    model = backend("abcdef")
    async with desk(valkey, model) as at:
        assert await at.ask(max_new_tokens=4) == ("abcd", finished(FinishReason.LENGTH, HI, 4))
    # what was opened had just the room that was needed, and is freed
    assert [(each.max_length, each.closed) for each in model.sessions] == [(HI + 3, True)]


async def test_the_last_token_and_the_ending_are_one_entry(valkey: Valkey) -> None:
    model = backend("abc")
    model.free_steps = 2
    async with desk(valkey, model) as at:
        job = await at.start(max_new_tokens=3)
        await at.tokens(job, 2)
        model.released.set()
        await at.result(job)
        attached = await at.broker.attach(job, "g", 2)
    assert attached is not None
    (entry,) = attached.entries
    assert (entry.first, [token.text for token in entry.tokens]) == (3, ["c"])
    assert entry.ending == finished(FinishReason.LENGTH, HI, 3)


async def test_jobs_do_not_wait_for_each_other(valkey: Valkey) -> None:
    async with desk(valkey, OracleBackend(step_ms=20), slots=8) as at:
        jobs = [await at.start(sampling=SamplingParams(seed=seed), max_new_tokens=10 + seed) for seed in range(8)]
        assert at.engine.free == 0
        for seed, job in enumerate(jobs):
            expected = oracle_text(seed, 0, 10 + seed), finished(FinishReason.LENGTH, 2, 10 + seed)
            assert await at.result(job) == expected


async def test_two_turns_feed_every_id_once(valkey: Valkey) -> None:
    model = backend("abcdef")
    async with desk(valkey, model) as at:
        await at.broker.open_session("s", "corolla/test", CAPACITY, 60_000, 9)
        assert (await at.ask("s", max_new_tokens=3))[0] == "abc"
        assert await at.ask("s", prompt="ok", max_new_tokens=2) == ("ab", kept(FinishReason.LENGTH, 2, 2))
        assert await at.ask("s", prompt=None, max_new_tokens=1) == ("a", kept(FinishReason.LENGTH, 0, 1))
        everything = [id for part in ("hi", "abc", "ok", "ab", "a") for id in TOKENIZER.encode(part, False)]
        assert await committed(at, "s") == (everything, 0)
        (only,) = model.sessions
        assert (only.fed, only.max_length) == (everything[:-1], CAPACITY)


async def test_a_session_is_rebuilt_where_its_cache_is_gone(valkey: Valkey) -> None:
    model = backend("abc")
    async with desk(valkey, model, kept=0) as at:
        await at.broker.open_session("s", "corolla/test", CAPACITY, 60_000, 9)
        await at.ask("s", max_new_tokens=3)
        assert (await at.ask("s", prompt="ok", max_new_tokens=2))[0] == "ab"
    _, second = model.sessions
    assert second.fed == [id for part in ("hi", "abc", "ok", "a") for id in TOKENIZER.encode(part, False)]


async def test_after_an_extra_stop_the_next_turn_sees_the_stop_sequence(valkey: Valkey) -> None:
    model = backend("ab\nUser: c")
    async with desk(valkey, model) as at:
        await at.broker.open_session("s", "corolla/test", CAPACITY, 60_000, 9)
        stops: dict[str, Any] = {"stop": ("###",), "extra_stop": ("\nUser:",)}
        assert (await at.ask("s", partial=True, **stops))[0] == "ab\nUser:"
        assert (await at.ask("s", prompt="ok", max_new_tokens=2))[0] == "ab"
    _, second = model.sessions
    parts = ("hi", "ab", "###", "ok", "a")
    assert second.fed == [id for part in parts for id in TOKENIZER.encode(part, False)]


async def test_a_character_cut_by_a_limit_comes_whole_in_the_next_call(valkey: Valkey) -> None:
    model = backend("a✔b")
    async with desk(valkey, model) as at:
        await at.broker.open_session("s", "corolla/test", CAPACITY, 60_000, 9)
        assert await at.ask("s", max_new_tokens=3) == ("a", kept(FinishReason.LENGTH, HI, 3))
        model.script = model.script[3:]
        assert await at.ask("s", prompt=None, max_new_tokens=2) == ("✔b", kept(FinishReason.LENGTH, 0, 2))


async def test_an_overflow_gives_nothing_and_changes_nothing(valkey: Valkey) -> None:
    model = backend("abcdef")
    async with desk(valkey, model) as at:
        await at.broker.open_session("s", "corolla/test", HI + 2, 60_000, 9)
        await at.ask("s", max_new_tokens=1)
        text, ending = await at.ask("s", prompt="ok", max_new_tokens=1)
        words = f"Maximum length exceeded: prefix {HI} + current 3 exceeds pre-allocated maximum {HI + 2}"
        assert (text, ending) == ("", JobFailed(Code.TOO_LONG, words, (HI + 3, 1, HI + 2)))
        assert model.steps == 1
        assert (await at.ask("s", prompt=None, max_new_tokens=2))[0] == "ab"


async def test_a_partial_answer_gives_what_fits(valkey: Valkey) -> None:
    async with desk(valkey, backend("abcdef")) as at:
        await at.broker.open_session("s", "corolla/test", HI + 2, 60_000, 9)
        text, ending = await at.ask("s", stop=("###",), partial=True)
        words = f"Maximum length exceeded: prefix 0 + current {HI + 3} exceeds pre-allocated maximum {HI + 2}"
        assert (text, ending) == ("abc", JobFailed(Code.TOO_LONG, words, (HI, HI + 3, HI + 2)))


async def test_a_model_s_own_bound_holds_without_a_session(valkey: Valkey) -> None:
    async with desk(valkey, OracleBackend(step_ms=0)) as at:
        assert (await at.ask(max_new_tokens=CAPACITY - 1))[1] == finished(FinishReason.LENGTH, 2, CAPACITY - 1)
        ending = (await at.ask(max_new_tokens=CAPACITY))[1]
        assert isinstance(ending, JobFailed)
        assert ending.code is Code.TOO_LONG


async def test_a_job_goes_on_where_another_worker_left_it(valkey: Valkey) -> None:
    # given a job of which three tokens are in the log
    model = OracleBackend(step_ms=0)
    async with desk(valkey, model) as at:
        job = await at.submit(sampling=SamplingParams(seed=5), max_new_tokens=8)
        claim = await at.claim()
        ids = [oracle_token(5, position) for position in range(3)]
        log = tuple(Token(id, model.tokenizer.decode([id])) for id in ids)
        await at.broker.append([Append(claim.job, claim.epoch, 1, log)])
        await at.broker.requeue(at.who, [(claim.job, claim.epoch)])
        # when it is claimed again
        again = await at.claim()
        assert again.log == log
        at.engine.start(again)
        # then text, usage and seq are as if nothing had happened
        assert await at.result(job) == (oracle_text(5, 0, 8), finished(FinishReason.LENGTH, 2, 8))


async def test_a_cancelled_job_ends_within_its_step(valkey: Valkey) -> None:
    # given a job in its third step
    model = backend("abcdef")
    model.free_steps = 2
    async with desk(valkey, model) as at:
        await at.broker.open_session("s", "corolla/test", CAPACITY, 60_000, 9)
        job = await at.start("s", max_new_tokens=6)
        await until_async(lambda: model.steps == 3)
        # when it is cancelled
        at.engine.cancel([job])
        model.released.set()
        # then that step's token is dropped, and the session keeps what was shown
        assert await at.result(job) == ("ab", kept(FinishReason.CANCELLED, HI, 2))
        assert await committed(at, "s") == (TOKENIZER.encode("hi", True) + TOKENIZER.encode("ab", False), 0)
        assert (await at.ask("s", prompt=None, max_new_tokens=2))[0] == "ab"


async def test_a_job_that_is_cancelled_before_its_first_token_leaves_its_session_as_it_was(valkey: Valkey) -> None:
    # given a job that is still at its prompt
    model = backend("abc")
    model.free_steps = 0
    async with desk(valkey, model) as at:
        await at.broker.open_session("s", "corolla/test", CAPACITY, 60_000, 9)
        job = await at.start("s", max_new_tokens=3)
        await until_async(lambda: model.steps == 1)
        # when
        at.engine.cancel([job])
        model.released.set()
        # then
        assert await at.result(job) == ("", finished(FinishReason.CANCELLED, HI, 0))
        assert await committed(at, "s") == ([], 0)


async def test_a_cancel_comes_with_the_answer_to_an_append(valkey: Valkey) -> None:
    async with desk(valkey, OracleBackend(step_ms=50)) as at:
        job = await at.start(max_new_tokens=CAPACITY - 1)
        await at.tokens(job, 1)
        await at.broker.cancel(job)
        text, ending = await at.result(job)
        assert ending == finished(FinishReason.CANCELLED, 2, len(text) // 5)


async def test_what_breaks_a_job_breaks_no_other(valkey: Valkey) -> None:
    model = backend("abc")
    async with desk(valkey, model) as at:
        model.failure = ZeroDivisionError("secret")
        text, ending = await at.ask(max_new_tokens=3)
        words = "The worker failed at this request, please try again later"
        assert (text, ending) == ("", JobFailed(Code.INTERNAL, words))
        model.failure = None
        assert (await at.ask(max_new_tokens=3))[0] == "abc"


async def test_a_fenced_job_is_dropped(valkey: Valkey) -> None:
    model = backend("a" * 60)
    model.pause_s = 0.05
    async with desk(valkey, model) as at:
        await at.broker.open_session("s", "corolla/test", CAPACITY, 60_000, 9)
        job = await at.start("s", max_new_tokens=60)
        await at.tokens(job, 2)
        # when the job is taken from this worker
        await at.broker.requeue(at.who, at.engine.leases())
        # then it stops, says nothing more, and keeps nothing
        await at.at_rest()
        tokens, ending = await at.log(job)
        assert 2 <= len(tokens) < model.steps < 60
        assert ending is None
        await until_async(lambda: model.sessions[0].closed)


async def test_the_same_job_under_a_new_lease_replaces_the_old_one(valkey: Valkey) -> None:
    model = backend("abcdef")
    model.free_steps = 0
    async with desk(valkey, model) as at:
        job = await at.start(max_new_tokens=6)
        (old,) = at.engine.leases()
        await at.broker.requeue(at.who, [old])
        at.engine.start(await at.claim())
        model.released.set()
        assert (await at.result(job))[0] == "abcdef"


async def test_a_drain_hands_over_all_that_was_made(valkey: Valkey) -> None:
    async with desk(valkey, OracleBackend(step_ms=50)) as at:
        job = await at.start(sampling=SamplingParams(seed=3), max_new_tokens=CAPACITY - 1)
        await at.tokens(job, 2)
        leases = await at.engine.drain(30)
        assert [name for name, _ in leases] == [job]
        tokens, ending = await at.log(job)
        assert ending is None
        assert "".join(token.text for token in tokens) == oracle_text(3, 0, len(tokens))
        assert at.engine.free == 2


async def test_a_drain_does_not_wait_for_a_hanging_step(valkey: Valkey) -> None:
    model = backend("abc")
    model.free_steps = 0
    async with desk(valkey, model) as at:
        job = await at.start(max_new_tokens=3)
        await until_async(lambda: model.steps == 1)
        async with asyncio.timeout(30):
            assert [name for name, _ in await at.engine.drain(3600)] == [job]
        await until_async(lambda: model.sessions[0].closed)


async def test_slots_are_counted(valkey: Valkey) -> None:
    model = backend("abc")
    model.free_steps = 0
    async with desk(valkey, model, slots=1) as at:
        await asyncio.wait_for(at.engine.has_room(), 30)
        await at.start(max_new_tokens=1)
        waiting = asyncio.create_task(at.engine.has_room())
        await until_async(lambda: model.steps == 1)
        assert (at.engine.free, waiting.done()) == (0, False)
        model.released.set()
        await asyncio.wait_for(waiting, 30)
        assert at.engine.free == 1
