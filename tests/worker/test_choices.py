"""Several answers to one job: each as if it was alone, whenever the others end and wherever the job goes on."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from shared.errors import Code
from shared.messages import FinishReason, JobFailed, JobFinished, JobRequest, Token
from shared.records import Claim
from shared.sampling import BeamParams, SamplingParams
from tests.valkey import Valkey
from tests.waiting import until_async
from tests.worker.alphabets import byte_level
from tests.worker.desk import CAPACITY, desk
from tests.worker.scripted import ScriptedBackend
from worker.choices import Answers, begin
from worker.models import Served
from worker.oracle_backend import OracleBackend
from worker.oracle_backend import text as oracle_text

pytestmark = pytest.mark.anyio

TOKENIZER = byte_level()
EOS = 1
HI = len(TOKENIZER.encode("hi", True))
STOP, LENGTH, CANCELLED = FinishReason.STOP, FinishReason.LENGTH, FinishReason.CANCELLED


def texts(tokens: Iterable[Token]) -> list[str]:
    """The text of each choice."""
    found: dict[int, str] = {}
    for token in tokens:
        found[token.choice] = found.get(token.choice, "") + token.text
    return [found[choice] for choice in range(len(found))]


def uneven() -> ScriptedBackend:
    """Three answers of five, two and three tokens."""
    model = ScriptedBackend(TOKENIZER, "abcde", "xy", "rs")
    model.scripts[2].append(EOS)
    return model


def start(model: ScriptedBackend, log: Sequence[Token] = (), **request: Any) -> Answers:
    fields: dict[str, Any] = {"sampling": SamplingParams(), "prompt": "hi", "max_new_tokens": 5} | request
    claim = Claim("j", "1:x", JobRequest("m", **fields), 60_000, tuple(log), None)
    return begin(claim, Served(model, CAPACITY))


def finish(answers: Answers, model: ScriptedBackend) -> list[Token]:
    """What comes of them up to their end."""
    tokens: list[Token] = []
    while not answers.ending:
        assert len({len(ids) for ids in answers.ids}) == 1
        assert [draw.ids for draw in answers.draws] == list(answers.ids)
        assert [draw.row for draw in answers.draws] == list(range(len(answers.ids)))
        tokens += answers.push([model.choose(draw) for draw in answers.draws])
    return tokens


async def test_each_choice_is_what_its_row_draws(valkey: Valkey) -> None:
    async with desk(valkey, OracleBackend(step_ms=0)) as at:
        job = await at.start(sampling=SamplingParams(seed=5), choices=3, max_new_tokens=40)
        _, ending = await at.result(job)
        tokens, _ = await at.log(job)
        assert texts(tokens) == [oracle_text(seed, 0, 40) for seed in (5, 6, 7)]
        assert ending == JobFinished(LENGTH, 2, 120, (LENGTH, LENGTH))
        # the tokens of one step are in one entry
        attached = await at.broker.attach(job, "g", 0)
        assert attached is not None
        assert {len(entry.tokens) % 3 for entry in attached.entries} == {0}


async def test_rows_that_have_ended_wait_for_the_others(valkey: Valkey) -> None:
    model = uneven()
    async with desk(valkey, model) as at:
        job = await at.start(choices=3, max_new_tokens=5, stop=("y",))
        _, ending = await at.result(job)
        assert texts((await at.log(job))[0]) == ["abcde", "xy", "rs</s>"]
    assert ending == JobFinished(LENGTH, HI, 5 + 2 + 3, (STOP, STOP))
    # one session, in which all rows were fed as much
    (session,) = model.sessions
    assert (model.steps, session.max_length, session.closed) == (5, HI + 4, True)


@pytest.mark.parametrize("cut", range(11))
def test_choices_go_on_wherever_the_log_ends(cut: int) -> None:
    # given a log that ends even between the rows of a step
    model = uneven()
    whole = finish(start(model, choices=3, stop=("y",)), model)
    assert len(whole) == 10
    # when another worker goes on, then nothing comes twice, and nothing is missing
    again = start(model, whole[:cut], choices=3, stop=("y",))
    assert finish(again, model) == whole[cut:]
    assert again.ending == JobFinished(LENGTH, HI, 10, (STOP, STOP))


@pytest.mark.parametrize("missing", range(3))
def test_a_row_that_lacks_tokens_catches_up(missing: int) -> None:
    model = uneven()
    request: dict[str, Any] = {"choices": 3, "stop": ("y",)}
    whole = finish(start(model, **request), model)
    # given a log without the end of one row
    lost = [token for token in whole if token.choice == missing][1:]
    again = start(model, [token for token in whole if token not in lost], **request)
    # then just that comes
    assert finish(again, model) == lost
    assert again.ending == JobFinished(LENGTH, HI, 10, (STOP, STOP))


async def test_choices_move_with_all_that_was_said(valkey: Valkey) -> None:
    async with desk(valkey, OracleBackend(step_ms=5)) as at:
        job = await at.start(sampling=SamplingParams(seed=9), choices=4, max_new_tokens=30)
        await at.tokens(job, 8)
        leases = await at.engine.drain(5)
        begun, _ = await at.log(job)
        await at.broker.requeue(at.who, leases)
        at.engine.start(await at.claim())
        _, ending = await at.result(job)
        tokens, _ = await at.log(job)
    assert len(begun) < 120
    assert tokens[: len(begun)] == begun
    assert texts(tokens) == [oracle_text(seed, 0, 30) for seed in range(9, 13)]
    assert ending == JobFinished(LENGTH, 2, 120, (LENGTH,) * 3)


async def test_a_cancel_ends_all_choices(valkey: Valkey) -> None:
    model = uneven()
    model.free_steps = 3
    async with desk(valkey, model) as at:
        job = await at.start(choices=3, max_new_tokens=5)
        await at.tokens(job, 9)
        at.engine.cancel([job])
        model.released.set()
        _, ending = await at.result(job)
        assert texts((await at.log(job))[0]) == ["abc", "xy<s>", "rs</s>"]
    assert ending == JobFinished(CANCELLED, HI, 9)


def candidates(**more: Any) -> dict[str, Any]:
    return {"choices": 2, "candidates": 3, "stop": ("y",), **more}


async def test_the_best_candidates_come_at_once(valkey: Valkey) -> None:
    # given answers of which the last is the most probable, by token and not in sum
    model = uneven()
    model.logprobs = {0: -1.5, 1: -2.0, 2: -1.0}
    async with desk(valkey, model) as at:
        job = await at.start(**candidates(max_new_tokens=5))
        _, ending = await at.result(job)
        tokens, _ = await at.log(job)
        attached = await at.broker.attach(job, "g", 0)
    # then it is the first choice; the tokens of all are counted, and nobody asked for logprobs
    assert texts(tokens) == ["rs</s>", "abcde"]
    assert [token.choice for token in tokens] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert {token.logprobs for token in tokens} == {None}
    assert ending == JobFinished(STOP, HI, 10, (LENGTH,))
    assert attached is not None
    assert len(attached.entries) == 1


def test_logprobs_of_candidates_come_where_they_are_asked_for() -> None:
    model = uneven()
    model.logprobs = {0: -1.0, 1: -0.5, 2: -2.0}
    tokens = finish(start(model, **candidates(sampling=SamplingParams(logprobs=0))), model)
    found = [(token.choice, token.logprobs and token.logprobs.logprob) for token in tokens]
    assert found == [(0, -0.5)] * 2 + [(1, -1.0)] * 5


def test_of_equal_candidates_the_first_come_first() -> None:
    model = uneven()
    model.logprobs = {0: -1.0, 1: -1.0, 2: -1.0}
    assert texts(finish(start(model, **candidates()), model)) == ["abcde", "xy"]


@pytest.mark.parametrize("more", [candidates(), {"beams": BeamParams(3), "choices": 2}], ids=["best", "beams"])
@pytest.mark.parametrize("cut", range(5))
def test_what_comes_at_once_starts_again_and_says_nothing_twice(more: dict[str, Any], cut: int) -> None:
    model = uneven()
    whole = finish(start(model, **more), model)
    assert finish(start(model, whole[:cut], **more), model) == whole[cut:]


@pytest.mark.parametrize("more", [{"candidates": 3}, {"beams": BeamParams(3)}], ids=["best", "beams"])
async def test_what_comes_at_once_moves_unseen(valkey: Valkey, more: dict[str, Any]) -> None:
    # given a job that leaves its worker in its fourth step
    model = ScriptedBackend(TOKENIZER, "abcde")
    model.free_steps = 3
    async with desk(valkey, model) as at:
        job = await at.start(max_new_tokens=5, **more)
        await until_async(lambda: model.steps == 4)
        leases = await at.engine.drain(5)
        assert await at.log(job) == ([], None)
        await at.broker.requeue(at.who, leases)
        # when it is claimed again, then it is as if nothing had happened
        model.released.set()
        at.engine.start(await at.claim())
        text, ending = await at.result(job)
    assert (text, model.steps) == ("abcde", 4 + 5)
    assert ending == JobFinished(LENGTH, HI, 15 if "candidates" in more else 5)


@pytest.mark.parametrize(("more", "made"), [({"candidates": 3}, 9), ({"beams": BeamParams(3)}, 0)], ids=str)
async def test_a_cancel_of_what_comes_at_once_says_nothing(valkey: Valkey, more: dict[str, Any], made: int) -> None:
    model = ScriptedBackend(TOKENIZER, "abcde")
    model.free_steps = 3
    async with desk(valkey, model) as at:
        job = await at.start(max_new_tokens=5, **more)
        await until_async(lambda: model.steps == 4)
        at.engine.cancel([job])
        model.released.set()
        assert await at.result(job) == ("", JobFinished(CANCELLED, HI, made))


async def test_the_best_beam_is_cut_at_a_stop_string(valkey: Valkey) -> None:
    async with desk(valkey, ScriptedBackend(TOKENIZER, "abcde")) as at:
        assert await at.ask(beams=BeamParams(3), stop=("c",), max_new_tokens=5) == ("abc", JobFinished(STOP, HI, 3))


def test_beams_are_written_with_their_scores() -> None:
    model = ScriptedBackend(TOKENIZER, "ab")
    tokens = finish(start(model, sampling=SamplingParams(logprobs=2), beams=BeamParams(2), max_new_tokens=2), model)
    assert [token.logprobs and token.logprobs.logprob for token in tokens] == [0.0, 0.0]


async def test_an_oracle_searches_too(valkey: Valkey) -> None:
    async with desk(valkey, OracleBackend(step_ms=0)) as at:
        request: dict[str, Any] = {"sampling": SamplingParams(seed=4), "max_new_tokens": 20}
        found = await at.ask(beams=BeamParams(4), **request)
    assert found == (oracle_text(4, 0, 20), JobFinished(LENGTH, 2, 20))


@pytest.mark.parametrize("more", [{"choices": 2}, {"candidates": 2}, {"beams": BeamParams(2)}], ids=str)
async def test_a_session_goes_on_with_one_answer_only(valkey: Valkey, more: dict[str, Any]) -> None:
    async with desk(valkey, uneven()) as at:
        await at.broker.open_session("s", "corolla/test", CAPACITY, 60_000, 9)
        words = "A session goes on with one answer: there cannot be several of them, nor beam search"
        assert await at.ask("s", max_new_tokens=5, **more) == ("", JobFailed(Code.INVALID, words))


async def test_partial_choices_fail_where_one_of_them_does(valkey: Valkey) -> None:
    async with desk(valkey, uneven()) as at:
        _, ending = await at.ask(prompt="a" * CAPACITY, choices=3, partial=True)
    assert isinstance(ending, JobFailed)
    assert ending.code is Code.TOO_LONG
