"""A job's steps: long prompts in pieces, time limits, and new attempts where the swarm failed."""

import dataclasses
from typing import Any
from unittest.mock import ANY

import pytest
from structlog.testing import capture_logs

import worker.run
from shared.errors import Code, CorollaError
from shared.messages import FinishReason, JobFailed, JobFinished
from shared.sampling import BeamParams
from tests.valkey import Valkey
from tests.waiting import until_async
from tests.worker.alphabets import byte_level
from tests.worker.desk import desk
from tests.worker.scripted import ScriptedBackend
from worker.backend import MAX_POSITIONS

pytestmark = pytest.mark.anyio

TOKENIZER = byte_level()
LONG = "q" * (3 * MAX_POSITIONS - 10)
LONG_IDS = TOKENIZER.encode(LONG, True)
ROOM = len(LONG_IDS) + 64
SWARM = CorollaError(Code.SWARM, "The swarm did not complete a step")
FULL = CorollaError(Code.CACHE_FULL, "The attention cache is full")
FAILED = JobFailed(Code.SWARM, "The swarm did not complete a step")


def finished(prompt: int, completion: int, *others: FinishReason) -> JobFinished:
    return JobFinished(FinishReason.LENGTH, prompt, completion, others)


def backend(text: str = "abcdef") -> ScriptedBackend:
    return ScriptedBackend(TOKENIZER, text)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new attempt does not wait long."""
    monkeypatch.setattr(worker.run, "RETRY_DELAYS_S", {Code.SWARM: (0.0, 0.02), Code.CACHE_FULL: (0.0, 0.02)})


def test_the_long_prompt_is_long() -> None:
    assert 2 * MAX_POSITIONS < len(LONG_IDS) < 3 * MAX_POSITIONS


async def test_a_long_prompt_is_fed_in_pieces(valkey: Valkey) -> None:
    model = backend()
    async with desk(valkey, model, capacity=ROOM) as at:
        assert await at.ask(prompt=LONG, max_new_tokens=3) == ("abc", finished(len(LONG_IDS), 3))
    assert model.pieces == [MAX_POSITIONS, MAX_POSITIONS, len(LONG_IDS) - 2 * MAX_POSITIONS, 1, 1]
    assert model.sessions[0].fed == LONG_IDS + TOKENIZER.encode("ab", False)


async def test_pieces_of_several_rows_are_as_much_smaller(valkey: Valkey) -> None:
    model = backend()
    async with desk(valkey, model, capacity=ROOM) as at:
        await at.ask(prompt=LONG[:300], choices=3, max_new_tokens=2)
    most, length = MAX_POSITIONS // 3, len(TOKENIZER.encode(LONG[:300], True))
    assert model.pieces == [most, length - most, 1]


async def test_a_prompt_that_moves_is_not_overdue(valkey: Valkey) -> None:
    # given a prompt that takes longer than a step may, but none of whose pieces does
    model = backend("a")
    model.pause_s = 0.5
    prompt = 4 * LONG
    length = len(TOKENIZER.encode(prompt, True))
    async with desk(valkey, model, capacity=length + 1, step_timeout_s=5) as at:
        assert await at.ask(prompt=prompt, max_new_tokens=1) == ("a", finished(length, 1))
        assert not at.engine.hung.is_set()
    assert len(model.pieces) * model.pause_s > 5


async def test_a_piece_that_does_not_come_back_is_left_to_others(valkey: Valkey) -> None:
    model = backend()
    model.free_steps = 1
    async with desk(valkey, model, capacity=ROOM, step_timeout_s=1) as at:
        job = await at.start(prompt=LONG, max_new_tokens=3)
        await at.at_rest()
        assert await at.log(job) == ([], None)
        assert (model.steps, at.engine.hung.is_set()) == (2, True)


async def test_a_cancel_is_heeded_between_pieces(valkey: Valkey) -> None:
    # given a prompt in its second piece
    model = backend()
    model.free_steps = 1
    async with desk(valkey, model, capacity=ROOM) as at:
        await at.broker.open_session("s", "corolla/test", ROOM, 60_000, 9)
        job = await at.start("s", prompt=LONG, max_new_tokens=3)
        await until_async(lambda: model.steps == 2)
        # when its job is cancelled, then no further one is fed
        at.engine.cancel([job])
        model.released.set()
        assert await at.result(job) == ("", JobFinished(FinishReason.CANCELLED, len(LONG_IDS), 0))
        assert model.steps == 2
        # and what was fed is there when the prompt comes again
        await at.ask("s", prompt=LONG, max_new_tokens=1)
    (session,) = model.sessions
    assert session.fed == LONG_IDS


async def test_a_late_job_fails_and_frees_its_slot(valkey: Valkey) -> None:
    model = backend()
    model.free_steps = 0
    async with desk(valkey, model) as at:
        job = await at.submit(max_new_tokens=3)
        at.engine.start(dataclasses.replace(await at.claim(), remaining_ms=100))
        text, ending = await at.result(job)
        words = "The answer was not finished in time, please try again later"
        assert (text, ending) == ("", JobFailed(Code.DEADLINE, words))
        await until_async(lambda: model.sessions[0].closed)


async def test_a_step_that_does_not_come_back_is_left_to_others(valkey: Valkey) -> None:
    model = backend()
    model.free_steps = 0
    async with desk(valkey, model, step_timeout_s=0.1) as at:
        job = await at.start(max_new_tokens=3)
        assert at.engine.leases() != []
        await at.at_rest()
        # nothing was said about it: its lease expires
        assert await at.log(job) == ([], None)
        assert at.engine.leases() == []
        # and as no step came back at all, the model hangs
        assert at.engine.hung.is_set()


async def test_a_model_of_which_other_steps_come_back_does_not_hang(valkey: Valkey) -> None:
    model = backend("a" * 60)
    model.free_steps = 1
    async with desk(valkey, model, step_timeout_s=2) as at:
        # given a job whose first step takes for ever, and another one that goes on
        model.steps = 1
        stuck = await at.start(max_new_tokens=3)
        await until_async(lambda: model.steps == 2)
        model.free_steps = 1000
        model.pause_s = 0.05
        await at.start(max_new_tokens=60)
        # then only the first is left to others
        await until_async(lambda: stuck not in dict(at.engine.leases()))
        assert len(at.engine.leases()) == 1
        await at.at_rest()
        assert await at.log(stuck) == ([], None)
        assert not at.engine.hung.is_set()


@pytest.mark.parametrize("code", [Code.SWARM, Code.CACHE_FULL])
async def test_an_answer_goes_on_over_other_servers(valkey: Valkey, code: Code) -> None:
    # given a session that fails in mid-answer
    error = CorollaError(code, "It failed")
    error.__cause__ = OSError("at 10.0.0.1")
    model = backend()
    model.failures = {3: error}
    with capture_logs() as lines:
        async with desk(valkey, model) as at:
            found = await at.ask(prompt="hi", max_new_tokens=4)
            await until_async(lambda: model.sessions[0].closed)
    # then another one is fed everything, and the client sees nothing of it
    ids = TOKENIZER.encode("hi", True)
    assert found == ("abcd", finished(len(ids), 4))
    first, second = model.sessions
    assert second.fed == ids + TOKENIZER.encode("abc", False)
    assert first.max_length == second.max_length
    # and one line tells of it
    (line,) = [line for line in lines if line["log_level"] == "warning"]
    assert line == {
        "event": "step_failed",
        "log_level": "warning",
        "job": "job0",
        "model": "corolla/test",
        "code": code,
        "cause": "OSError",
        "fed": len(ids) + 1,
        "attempt": 1,
    }


async def test_a_new_attempt_feeds_a_long_prompt_in_pieces(valkey: Valkey) -> None:
    model = backend()
    model.failures = {2: SWARM, 6: SWARM}
    async with desk(valkey, model, capacity=ROOM) as at:
        assert (await at.ask(prompt=LONG, max_new_tokens=4))[0] == "abcd"
    whole, rest = MAX_POSITIONS, len(LONG_IDS) - 2 * MAX_POSITIONS
    assert model.pieces == [whole, whole, *(whole, whole, rest, 1), *(whole, whole, rest + 1, 1, 1)]


@pytest.mark.usefixtures("hasty")
async def test_after_three_attempts_in_a_row_the_client_is_told(valkey: Valkey) -> None:
    model = backend()
    model.failures = {2: SWARM, 3: SWARM, 4: SWARM}
    async with desk(valkey, model) as at:
        assert await at.ask(max_new_tokens=4) == ("a", FAILED)
        await until_async(lambda: all(session.closed for session in model.sessions))
        # and a new job is as good as any
        assert (await at.ask(max_new_tokens=4))[0] == "abcd"
    assert (model.steps, len(model.sessions)) == (4 + 4, 4)


@pytest.mark.usefixtures("hasty")
async def test_failures_of_one_kind_leave_all_attempts_to_those_of_another(valkey: Valkey) -> None:
    model = backend()
    model.failures = {2: SWARM, 3: SWARM, 4: FULL, 5: FULL}
    async with desk(valkey, model) as at:
        assert (await at.ask(max_new_tokens=4))[0] == "abcd"
        # and there are no more of them
        model.failures = {model.steps + step: error for step, error in enumerate((SWARM, FULL, FULL, SWARM, FULL), 2)}
        words = "The attention cache is full"
        assert await at.ask(max_new_tokens=4) == ("a", JobFailed(Code.CACHE_FULL, words))


async def test_idle_caches_make_room_for_who_is_new(valkey: Valkey) -> None:
    # given servers that are full of sessions whose users pause
    model = backend("abcd")
    model.room = 3
    with capture_logs() as lines:
        async with desk(valkey, model) as at:
            for name in ("s0", "s1", "s2", "new"):
                await at.broker.open_session(name, "corolla/test", ROOM, 60_000, 9)
            for name in ("s0", "s1", "s2"):
                await at.ask(name, max_new_tokens=2)
            # when another user comes, then there is room, by the cache alone that was idle for longest
            assert (await at.ask("new", max_new_tokens=4))[0] == "abcd"
            assert [session.closed for session in model.sessions] == [True, False, False, True, True, False]
            # and what its session was fed is fed again when its next turn comes
            assert (await at.ask("s0", prompt="ok", max_new_tokens=3))[0] == "abc"
    assert model.sessions[-1].fed == TOKENIZER.encode("hiabokab", True)
    # and other servers were tried first
    events = [line["event"] for line in lines if line["event"] in ("room_made", "step_failed")]
    assert events == ["step_failed", "step_failed", "room_made"] * 2


async def test_idle_caches_make_room_for_who_asks_about_a_prompt(valkey: Valkey) -> None:
    model = backend()
    model.room = 1
    async with desk(valkey, model) as at:
        await at.broker.open_session("s", "corolla/test", ROOM, 60_000, 9)
        await at.ask("s", max_new_tokens=2)
        assert (await at.ask(embed=True))[1] == JobFinished(FinishReason.STOP, 1, embedding=ANY)
    assert [session.closed for session in model.sessions] == [True] * 4


@pytest.mark.usefixtures("hasty")
async def test_caches_in_use_make_no_room(valkey: Valkey) -> None:
    # given servers that are full of sessions whose answers are under way
    model = backend()
    model.room = 1
    model.free_steps = 1
    async with desk(valkey, model) as at:
        first = await at.start(max_new_tokens=4)
        await until_async(lambda: model.steps == 2)
        model.free_steps = 1000
        # when another user comes, then that is told, and does no harm
        second = await at.start(max_new_tokens=4)
        await until_async(lambda: at.engine.free == 1)
        assert await at.log(second) == ([], JobFailed(Code.CACHE_FULL, "The attention cache is full"))
        model.released.set()
        assert (await at.result(first))[0] == "abcd"


@pytest.mark.usefixtures("hasty")
async def test_a_token_makes_good_what_failed_before_it(valkey: Valkey) -> None:
    model = backend()
    model.failures = dict.fromkeys((1, 2, 4, 5, 7, 8), SWARM)
    async with desk(valkey, model) as at:
        assert (await at.ask(max_new_tokens=3))[0] == "abc"
    assert model.steps == 9


@pytest.mark.usefixtures("hasty")
async def test_a_piece_makes_nothing_good(valkey: Valkey) -> None:
    model = backend()
    model.failures = dict.fromkeys((2, 4, 6), SWARM)
    async with desk(valkey, model, capacity=ROOM) as at:
        assert await at.ask(prompt=LONG, max_new_tokens=3) == ("", FAILED)


async def test_no_attempt_begins_after_the_deadline(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    # given too little time for the pause before a third attempt
    monkeypatch.setattr(worker.run, "RETRY_DELAYS_S", {Code.SWARM: (0.0, 3600.0)})
    model = backend()
    model.failure = SWARM
    async with desk(valkey, model) as at:
        # then what was wrong is told at once
        assert await at.ask(max_new_tokens=3) == ("", FAILED)
    assert model.steps == 2


async def test_what_is_not_the_swarm_s_failure_is_not_tried_again(valkey: Valkey) -> None:
    model = backend()
    model.failure = CorollaError(Code.INVALID, "No such id")
    async with desk(valkey, model) as at:
        assert await at.ask(max_new_tokens=3) == ("", JobFailed(Code.INVALID, "No such id"))
    assert model.steps == 1


async def test_a_session_s_next_turn_goes_on_where_it_failed_over(valkey: Valkey) -> None:
    model = backend()
    model.failures = {2: SWARM}
    async with desk(valkey, model) as at:
        await at.broker.open_session("s", "corolla/test", 64, 60_000, 9)
        assert (await at.ask("s", max_new_tokens=3))[0] == "abc"
        assert (await at.ask("s", prompt="ok", max_new_tokens=2))[0] == "ab"
    first, second = model.sessions
    assert (first.closed, len(second.fed)) == (True, len(TOKENIZER.encode("hiabcoka", True)))


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("more", [{"choices": 3}, {"candidates": 3}, {"beams": BeamParams(3)}], ids=str)
async def test_rows_go_on_over_other_servers(valkey: Valkey, more: dict[str, Any]) -> None:
    # given a session of several rows that fails in mid-answer, in which every row has its own history
    model = backend("abcde")
    model.scripts = {1: TOKENIZER.encode("xy", False), 2: TOKENIZER.encode("vwxyz", False)}
    async with desk(valkey, model, capacity=ROOM) as at:
        found = []
        for failing in ((), (4, 7, 8)):
            model.failures = {model.steps + step: SWARM for step in failing}
            job = await at.start(prompt=LONG[:300], max_new_tokens=5, stop=("y",), **more)
            await at.at_rest()
            found.append(await at.log(job))
    # then nobody sees a difference
    assert found[0] == found[1]
    assert [len(session.rows) for session in model.sessions] == [3] * (1 + 4)
