"""An answer's text, its endings, and what its session keeps."""

from typing import Any

import pytest

from shared.errors import Code
from shared.messages import FinishReason, JobFailed, JobFinished, JobRequest, Token
from shared.records import SessionCommit, SessionSnapshot
from shared.sampling import SamplingParams
from tests.worker.alphabets import byte_level, sentence_piece
from worker.answer import Answer
from worker.oracle_backend import OracleTokenizer
from worker.prompts import make_plan
from worker.tokenizer import FastTokenizer

EOS = 1
TOKENIZER = byte_level()
PROMPT = TOKENIZER.encode("hi", True)


def begin(
    tokenizer: FastTokenizer | OracleTokenizer = TOKENIZER,
    session: SessionSnapshot | None = None,
    capacity: int = 100,
    **request: Any,
) -> Answer:
    fields: dict[str, Any] = {"prompt": "hi", "max_new_tokens": 50} | request
    job = JobRequest("m", SamplingParams(), **fields)
    return Answer(job, make_plan(job, session, capacity, tokenizer), tokenizer)


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, False)


def write(answer: Answer, chosen: list[int]) -> str:
    """Push ids until the answer ends; its text."""
    for id in chosen:
        if answer.ending:
            break
        answer.push(id)
    return "".join(token.text for token in answer.tokens)


def test_tokens_until_the_limit() -> None:
    answer = begin(max_new_tokens=3)
    chosen = ids("abc")
    assert [answer.push(id) for id in chosen] == [Token(id, text) for id, text in zip(chosen, "abc", strict=True)]
    assert answer.ending == JobFinished(FinishReason.LENGTH, len(PROMPT), 3)
    assert answer.commit == SessionCommit(PROMPT + chosen)
    assert answer.ids == PROMPT + chosen


def test_end_of_text_ends_the_answer_and_is_shown() -> None:
    answer = begin()
    assert write(answer, [*ids("ab"), EOS, *ids("c")]) == "ab</s>"
    assert answer.ending == JobFinished(FinishReason.STOP, len(PROMPT), 3)
    assert answer.commit == SessionCommit([*PROMPT, *ids("ab"), EOS])


def test_a_stop_across_tokens_is_kept_as_it_was_written() -> None:
    answer = begin(stop=("bcd",))
    assert write(answer, ids("abcde")) == "abcd"
    assert answer.ending == JobFinished(FinishReason.STOP, len(PROMPT), 4)
    assert answer.commit == SessionCommit(PROMPT + ids("abcd"))


def test_a_stop_inside_a_token_cuts_it_for_client_and_session() -> None:
    # given a tokenizer with a word that holds the stop and more
    hello = ids("hello")
    assert len(hello) < 5
    answer = begin(stop=("hel",))
    assert write(answer, ids("a") + hello) == "ahel"
    # then neither has what followed
    assert answer.commit is not None
    assert TOKENIZER.decode(answer.commit.ids) == TOKENIZER.decode(PROMPT) + "ahel"
    assert answer.commit.ids[: len(PROMPT) + 1] == PROMPT + ids("a")


def test_after_an_extra_stop_the_session_has_the_stop_sequence() -> None:
    answer = begin(stop=("###",), extra_stop=("</s>", "\nUser:"))
    assert write(answer, ids("ab\nUser: c")) == "ab\nUser:"
    assert answer.ending == JobFinished(FinishReason.STOP, len(PROMPT), len(ids("ab\nUser:")))
    assert answer.commit == SessionCommit(PROMPT + ids("ab") + ids("###"))


def test_an_extra_stop_that_is_the_end_of_text() -> None:
    answer = begin(stop=("###",), extra_stop=("</s>",))
    assert write(answer, [*ids("ab"), EOS]) == "ab</s>"
    assert answer.commit == SessionCommit(PROMPT + ids("ab") + ids("###"))


def test_an_extra_stop_that_begins_inside_a_token() -> None:
    oracle = OracleTokenizer()
    answer = begin(oracle, stop=("#",), extra_stop=("34 5",))
    assert write(answer, [256 + 0x1234, 256 + 0x5678]) == "1234 5"
    assert answer.commit == SessionCommit([*b"hi", *b"12", *b"#"])


def test_an_extra_stop_that_begins_inside_a_character_s_tokens() -> None:
    # "✔" is three tokens; what comes before it is kept as it was written
    answer = begin(stop=("###",), extra_stop=("✔b",))
    assert write(answer, ids("a✔bc")) == "a✔b"
    assert answer.commit == SessionCommit(PROMPT + ids("a") + ids("###"))


def test_without_a_stop_sequence_an_extra_stop_just_stops() -> None:
    answer = begin(extra_stop=("b",))
    assert write(answer, ids("abc")) == "ab"
    assert answer.commit == SessionCommit(PROMPT + ids("ab"))


def test_a_stop_that_is_also_an_extra_stop_is_kept() -> None:
    answer = begin(stop=("##",), extra_stop=("a##",))
    assert write(answer, ids("a##")) == "a##"
    assert answer.commit == SessionCommit(PROMPT + ids("a##"))


def test_half_a_character_at_the_limit_is_shown_in_the_next_call() -> None:
    # given an answer that is cut within a character of three tokens
    first, second, third = ids("✔")
    answer = begin(max_new_tokens=3)
    assert write(answer, [*ids("a"), first, second]) == "a"
    assert answer.commit == SessionCommit([*PROMPT, *ids("a"), first, second], held=2)
    # when the session goes on without a prompt, then the character comes whole
    session = SessionSnapshot("s", 100, answer.commit.ids, answer.commit.held)
    going_on = begin(session=session, prompt=None, max_new_tokens=2)
    (last,) = ids("b")
    assert [going_on.push(third), going_on.push(last)] == [Token(third, "✔"), Token(last, "b")]
    assert going_on.ending == JobFinished(FinishReason.LENGTH, 0, 2)
    assert going_on.commit == SessionCommit([third, last])
    # and with a prompt it is forgotten
    asked = begin(session=session, prompt="c", max_new_tokens=2)
    assert write(asked, ids("bb")) == "bb"


def test_half_a_character_may_wait_for_more_than_one_call() -> None:
    first, second, _ = ids("✔")
    session = SessionSnapshot("s", 100, [*PROMPT, first], 1)
    answer = begin(session=session, prompt=None, max_new_tokens=1)
    assert write(answer, [second]) == ""
    assert answer.commit == SessionCommit([second], held=2)


def test_a_partial_answer_fails_at_its_limit_and_is_not_kept() -> None:
    answer = begin(capacity=len(PROMPT) + 1, partial=True)
    assert write(answer, ids("abc")) == "ab"
    assert isinstance(answer.ending, JobFailed)
    assert answer.ending.code is Code.TOO_LONG
    assert answer.commit is None


def test_a_stop_at_the_limit_is_a_stop() -> None:
    answer = begin(max_new_tokens=2, stop=("b",))
    assert write(answer, ids("ab")) == "ab"
    assert answer.ending == JobFinished(FinishReason.STOP, len(PROMPT), 2)


def test_a_cancelled_answer_keeps_what_was_shown() -> None:
    answer = begin()
    write(answer, ids("ab"))
    answer.cancel()
    assert answer.ending == JobFinished(FinishReason.CANCELLED, len(PROMPT), 2)
    assert answer.commit == SessionCommit(PROMPT + ids("ab"))


def test_an_answer_cancelled_before_its_first_token_leaves_no_trace() -> None:
    answer = begin()
    answer.cancel()
    assert answer.ending == JobFinished(FinishReason.CANCELLED, len(PROMPT), 0)
    assert answer.commit is None


@pytest.mark.parametrize("tokenizer", [byte_level(), sentence_piece()], ids=["byte level", "sentence piece"])
@pytest.mark.parametrize("before", range(12))
def test_replay_goes_on_as_if_nothing_had_happened(tokenizer: FastTokenizer, before: int) -> None:
    # given an answer with half characters and a stop across tokens
    request: dict[str, Any] = {"stop": ("стоп",), "extra_stop": ("end",)}
    chosen = tokenizer.encode(" a✔b стоп c", False)
    whole = begin(tokenizer, **request)
    write(whole, chosen)
    # when another worker takes over after some of its tokens
    again = begin(tokenizer, **request)
    again.replay(whole.tokens[:before])
    write(again, chosen[before:])
    # then nothing differs
    assert again.tokens == whole.tokens
    assert (again.ending, again.commit, again.ids) == (whole.ending, whole.commit, whole.ids)


def test_a_log_that_reached_the_limit_ends_at_once() -> None:
    answer = begin(max_new_tokens=2)
    answer.replay([Token(id, "") for id in ids("ab")])
    assert answer.ending == JobFinished(FinishReason.LENGTH, len(PROMPT), 2)
