"""Jobs that only read their prompt: its tokens, and its embedding."""

import dataclasses
import struct
from typing import Any

import pytest

import worker.run
from shared.errors import Code, CorollaError
from shared.messages import FinishReason, JobFailed, JobFinished, Logprobs, Message, Token
from shared.records import Append
from shared.sampling import SamplingParams
from tests.valkey import Valkey
from tests.waiting import until_async
from tests.worker.alphabets import TEXTS, byte_level, sentence_piece
from tests.worker.desk import desk
from tests.worker.scripted import ScriptedBackend
from worker.backend import MAX_POSITIONS
from worker.readings import pack, spell
from worker.tokenizer import FastTokenizer

pytestmark = pytest.mark.anyio

TOKENIZER = byte_level()
SWARM = CorollaError(Code.SWARM, "The swarm did not complete a step")


def backend() -> ScriptedBackend:
    return ScriptedBackend(TOKENIZER)


@pytest.mark.parametrize("tokenizer", [byte_level(), sentence_piece()])
@pytest.mark.parametrize("text", TEXTS)
def test_all_tokens_together_have_the_text(tokenizer: FastTokenizer, text: str) -> None:
    ids = tokenizer.encode(text, True)
    spelled = list(spell(ids, tokenizer, False))
    assert [token.id for token in spelled] == ids
    assert "".join(token.text for token in spelled) == text


async def test_a_prompts_tokens(valkey: Valkey) -> None:
    ids = TOKENIZER.encode("hello world", True)
    async with desk(valkey, backend()) as at:
        job = await at.start(prompt="hello world", echo=True)
        assert await at.result(job) == ("hello world", JobFinished(FinishReason.STOP, len(ids)))
        assert [token.id for token in (await at.log(job))[0]] == ids


async def test_the_text_of_ids(valkey: Valkey) -> None:
    ids = tuple(TOKENIZER.encode("hi 👋🏽", False))
    async with desk(valkey, backend()) as at:
        assert await at.ask(prompt=ids, echo=True) == ("hi 👋🏽", JobFinished(FinishReason.STOP, len(ids)))
        assert (await at.ask(prompt=(0, *ids), echo=True))[0] == "<s>hi 👋🏽"
        assert (await at.ask(prompt=(0, *ids), echo=True, show_special=False))[0] == "hi 👋🏽"


async def test_the_tokens_of_a_dialogue(valkey: Valkey) -> None:
    async with desk(valkey, backend()) as at:
        text, _ = await at.ask(prompt=None, messages=(Message("user", "hi"),), echo=True, show_special=False)
        assert text == "Human: hi###Assistant:"


@pytest.mark.parametrize("prompt", ["", ()])
async def test_nothing_has_no_tokens(valkey: Valkey, prompt: Any) -> None:
    async with desk(valkey, backend()) as at:
        assert await at.ask(prompt=prompt, echo=True) == ("", JobFinished(FinishReason.STOP))
        _, ending = await at.ask(prompt=prompt, embed=True)
        assert ending == JobFailed(Code.INVALID, "There is nothing in `input`")


async def test_what_was_told_before_is_not_told_again(valkey: Valkey) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 20
    async with desk(valkey, backend()) as at:
        job = await at.submit(prompt=text, echo=True)
        claim = await at.claim()
        # given a worker that told five tokens before it was lost
        before = tuple(Token(id, "?") for id in range(5))
        await at.broker.append([Append(job, claim.epoch, 1, before)])
        at.engine.start(dataclasses.replace(claim, log=before))
        await at.result(job)
        tokens, _ = await at.log(job)
    spelled = list(spell(TOKENIZER.encode(text, True), TOKENIZER, True))
    assert tokens == [*before, *spelled[5:]]


async def test_an_embedding_is_the_mean_at_length_one(valkey: Valkey) -> None:
    model = backend()
    ids = TOKENIZER.encode("q" * (MAX_POSITIONS + 9), True)
    async with desk(valkey, model, capacity=2 * MAX_POSITIONS) as at:
        _, ending = await at.ask(prompt="q" * (MAX_POSITIONS + 9), embed=True)
    assert ending == JobFinished(FinishReason.STOP, len(ids), embedding=pack([3.0, 0.0, 4.0]))
    assert isinstance(ending, JobFinished)
    assert struct.unpack("<3f", ending.embedding) == pytest.approx((0.6, 0, 0.8))
    assert model.pieces == [MAX_POSITIONS, len(ids) - MAX_POSITIONS]
    assert all(session.closed for session in model.sessions)


async def test_how_probable_a_prompts_tokens_are(valkey: Valkey) -> None:
    model = backend()
    text = "q" * (MAX_POSITIONS + 9)
    ids = TOKENIZER.encode(text, True)
    async with desk(valkey, model, capacity=2 * MAX_POSITIONS) as at:
        job = await at.start(prompt=text, echo=True, sampling=SamplingParams(logprobs=2))
        assert await at.result(job) == (text, JobFinished(FinishReason.STOP, len(ids)))
        tokens, _ = await at.log(job)
    assert [token.id for token in tokens] == ids
    piece = TOKENIZER.piece
    expected = [Logprobs(piece(id), -id, ((piece(id), -id), (piece(0), -9999.0))) for id in ids[1:]]
    assert [token.logprobs for token in tokens] == [None, *expected]
    # the last one follows nothing that would have to be fed
    assert model.pieces == [MAX_POSITIONS, len(ids) - 1 - MAX_POSITIONS]
    assert all(session.closed for session in model.sessions)


@pytest.mark.parametrize("prompt", ["", (5,)])
async def test_a_first_token_is_as_probable_as_nobody_knows(valkey: Valkey, prompt: Any) -> None:
    model = backend()
    async with desk(valkey, model) as at:
        job = await at.start(prompt=prompt, echo=True, sampling=SamplingParams(logprobs=2))
        assert (await at.result(job))[1] == JobFinished(FinishReason.STOP, len(prompt))
        tokens, _ = await at.log(job)
    assert [(token.id, token.logprobs) for token in tokens] == [(id, None) for id in prompt]
    assert model.steps == 0


async def test_what_is_too_long_for_the_model_is_too_long_to_be_weighed(valkey: Valkey) -> None:
    async with desk(valkey, backend(), capacity=4) as at:
        _, ending = await at.ask(prompt=(2, 3, 4, 5, 6), echo=True, sampling=SamplingParams(logprobs=0))
    assert isinstance(ending, JobFailed)
    assert ending.lengths == (5, 0, 4)


async def test_too_long_for_an_embedding(valkey: Valkey) -> None:
    async with desk(valkey, backend(), capacity=4) as at:
        _, ending = await at.ask(prompt=(2, 3, 4, 5, 6), embed=True)
    text = "The text has 5 tokens, but the model takes at most 4"
    assert ending == JobFailed(Code.TOO_LONG, text, (5, 0, 4))


async def test_an_embedding_over_other_servers(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.run, "RETRY_DELAYS_S", {Code.SWARM: (0.0, 0.02)})
    model = backend()
    model.failures = {1: SWARM, 2: SWARM}
    async with desk(valkey, model) as at:
        _, ending = await at.ask(prompt=(2, 3), embed=True)
        assert ending == JobFinished(FinishReason.STOP, 2, embedding=pack([3.0, 0.0, 4.0]))
        model.failure = SWARM
        _, ending = await at.ask(prompt=(2, 3), embed=True)
    assert ending == JobFailed(Code.SWARM, SWARM.message)
    assert all(session.closed for session in model.sessions)


def test_an_embedding_of_zeros_stays_one() -> None:
    assert pack([0.0, 0.0]) == struct.pack("<2f", 0, 0)


LONG = "q" * (2 * MAX_POSITIONS)


@pytest.mark.parametrize("asked", [{"embed": True}, {"echo": True, "sampling": SamplingParams(logprobs=0)}])
async def test_a_cancel_is_heeded_between_pieces(valkey: Valkey, asked: dict[str, Any]) -> None:
    # given a prompt in its first piece
    model = backend()
    model.free_steps = 0
    async with desk(valkey, model, capacity=4 * MAX_POSITIONS) as at:
        job = await at.start(prompt=LONG, **asked)
        await until_async(lambda: model.steps == 1)
        # when its job is cancelled, then no further one is fed
        at.engine.cancel([job])
        model.released.set()
        text, ending = await at.result(job)
        assert text == ""
        assert isinstance(ending, JobFinished)
        assert (ending.reason, model.steps) == (FinishReason.CANCELLED, 1)


@pytest.mark.parametrize("asked", [{"embed": True}, {"echo": True, "sampling": SamplingParams(logprobs=0)}])
async def test_a_piece_that_does_not_come_back_is_left_to_others(valkey: Valkey, asked: dict[str, Any]) -> None:
    model = backend()
    model.free_steps = 1
    async with desk(valkey, model, step_timeout_s=1, capacity=4 * MAX_POSITIONS) as at:
        job = await at.start(prompt=LONG, **asked)
        await at.at_rest()
        # nothing was said about it: its lease expires
        assert await at.log(job) == ([], None)
        assert (at.engine.leases(), model.steps) == ([], 2)
        assert all(session.closed for session in model.sessions)
