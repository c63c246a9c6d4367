"""How long an answer may get, by the rules of the Petals Chat API."""

from typing import Any

import pytest

from shared.catalog import Chat
from shared.errors import Code, CorollaError, TooLong
from shared.messages import JobFailed, JobRequest, Message
from shared.records import SessionSnapshot
from shared.sampling import SamplingParams
from worker.oracle_backend import OracleTokenizer
from worker.prompts import Plan, make_plan, write_prompt
from worker.templates import make_template

OLD = [1, 2, 3, 4]  # ids of a session


class NoBos(OracleTokenizer):
    """A model that cannot start from nothing."""

    bos_id: int | None = None


def plan(capacity: int, committed: list[int] | None = None, held: int = 0, **request: Any) -> Plan:
    session = None if committed is None else SessionSnapshot("s", capacity, committed, held)
    return make_plan(JobRequest("m", SamplingParams(), **request), session, capacity, OracleTokenizer())


def failure(capacity: int, committed: list[int] | None = None, **request: Any) -> tuple[Code, str]:
    with pytest.raises(CorollaError) as raised:
        plan(capacity, committed, **request)
    return raised.value.code, raised.value.message


def exceeded(prefix: int, current: int, maximum: int) -> str:
    return f"Maximum length exceeded: prefix {prefix} + current {current} exceeds pre-allocated maximum {maximum}"


def test_new_tokens_after_a_prompt() -> None:
    assert plan(100, prompt="abc", max_new_tokens=5) == Plan([*b"abc"], 3, 0, 5, None)
    assert plan(100, prompt="abc", max_new_tokens=5).positions == 7


def test_new_tokens_in_a_session() -> None:
    assert plan(100, OLD, prompt="abc", max_new_tokens=5) == Plan([*OLD, *b"abc"], 3, 0, 5, None)


def test_max_length_counts_everything() -> None:
    assert plan(100, OLD, prompt="abc", max_length=10).limit == 3
    assert failure(100, OLD, prompt="abc", max_length=7) == (
        Code.INVALID,
        "`max_length` is 7, but session and prompt have 7 tokens already",
    )


def test_without_a_length_the_answer_takes_what_fits() -> None:
    assert plan(10, prompt="abc") == Plan([*b"abc"], 3, 0, 8, None)
    assert failure(3, prompt="abcd") == (Code.TOO_LONG, exceeded(0, 4, 3))


def test_the_last_token_needs_no_position() -> None:
    assert plan(8, OLD, prompt="abc", max_new_tokens=2).limit == 2
    assert failure(8, OLD, prompt="abc", max_new_tokens=3) == (Code.TOO_LONG, exceeded(3, 6, 8))
    assert plan(8, OLD, max_new_tokens=5).limit == 5
    assert failure(8, OLD, max_new_tokens=6) == (Code.TOO_LONG, exceeded(3, 6, 8))
    assert plan(3, prompt="abc", max_new_tokens=1).limit == 1
    assert failure(2, prompt="abc", max_new_tokens=1) == (Code.TOO_LONG, exceeded(0, 3, 2))


def test_a_partial_answer_takes_what_fits_and_then_fails() -> None:
    overflow = JobFailed(Code.TOO_LONG, exceeded(3, 9, 8), (7, 6, 8))
    assert plan(8, OLD, prompt="abc", max_new_tokens=6, partial=True) == Plan([*OLD, *b"abc"], 3, 0, 2, overflow)
    assert plan(8, OLD, prompt="abc", max_new_tokens=2, partial=True).overflow is None
    # without a limit it always wants more than fits
    assert plan(8, OLD, partial=True) == Plan(OLD, 0, 0, 5, JobFailed(Code.TOO_LONG, exceeded(3, 6, 8), (4, 6, 8)))
    # where nothing fits, nothing comes
    assert failure(6, OLD, prompt="abc", partial=True) == (Code.TOO_LONG, exceeded(3, 4, 6))
    assert failure(6, OLD, prompt="abc", max_new_tokens=9, partial=True) == (Code.TOO_LONG, exceeded(3, 12, 6))


def test_no_prompt_starts_from_bos_and_continues_without() -> None:
    bos = OracleTokenizer.bos_id
    assert plan(10, max_new_tokens=1).before == [bos]
    assert plan(10, [], max_new_tokens=1).before == [bos]
    assert plan(10, OLD, max_new_tokens=1) == Plan(OLD, 0, 0, 1, None)
    with pytest.raises(CorollaError, match="needs a prompt"):
        make_plan(JobRequest("m", SamplingParams(), max_new_tokens=1), None, 10, NoBos())
    with pytest.raises(CorollaError, match="needs a prompt"):
        make_plan(JobRequest("m", SamplingParams(), prompt="", max_new_tokens=1), None, 10, NoBos())


def test_a_wish_gets_what_fits() -> None:
    assert plan(8, prompt="abc", max_new_tokens=512, shrink=True).limit == 6
    assert plan(8, prompt="abc", max_new_tokens=2, shrink=True).limit == 2
    with pytest.raises(TooLong) as raised:
        plan(2, prompt="abc", max_new_tokens=512, shrink=True)
    assert raised.value.lengths == (3, 1, 2)


def test_a_prompt_of_ids() -> None:
    assert plan(10, prompt=(7, 8), max_new_tokens=1) == Plan([7, 8], 2, 0, 1, None)
    assert failure(10, prompt=(7, 65_793), max_new_tokens=1) == (
        Code.INVALID,
        "`prompt`: 65793 is no token id of this model, which has 0 to 65792",
    )


@pytest.mark.parametrize("rule", [{"stop_token_ids": (70_000,)}, {"logit_bias": {70_000: 1.0}}])
def test_ids_that_the_model_does_not_have(rule: dict[str, Any]) -> None:
    request = JobRequest("m", SamplingParams(**rule), "a", max_new_tokens=1)
    (field,) = rule
    with pytest.raises(CorollaError, match=f"`{field}`: 70000 is no token id"):
        make_plan(request, None, 10, OracleTokenizer())


def test_a_dialogue_becomes_a_prompt_and_its_stops() -> None:
    template = make_template(Chat(), None, {})
    request = JobRequest("m", SamplingParams(), messages=(Message("user", "hi"),), stop=("x",))
    written = write_prompt(request, template, OracleTokenizer())
    assert written.prompt == tuple(b"Human: hi###Assistant:")
    assert (written.messages, written.stop) == ((), ("x", "###", "</s>"))


def test_held_text_comes_when_the_answer_goes_on_but_not_after_a_prompt() -> None:
    assert plan(10, OLD, held=2, max_new_tokens=1).held == 2
    assert plan(10, OLD, held=2, prompt="a", max_new_tokens=1).held == 0
