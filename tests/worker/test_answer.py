"""An answer's text, its endings, and what its session keeps."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import Code
from shared.messages import FinishReason, JobFailed, JobFinished, JobRequest, Logprobs, Token
from shared.records import SessionCommit, SessionSnapshot
from shared.sampling import SamplingParams
from tests.worker.alphabets import byte_level, sentence_piece
from worker.answer import Answer
from worker.backend import Choice
from worker.prompts import make_plan
from worker.stopping import StopFinder
from worker.tokenizer import FastTokenizer

BOS, EOS = 0, 1
TOKENIZER = byte_level()
PROMPT = TOKENIZER.encode("hi", True)


def begin(
    tokenizer: FastTokenizer = TOKENIZER,
    session: SessionSnapshot | None = None,
    capacity: int = 100,
    sampling: SamplingParams | None = None,
    choice: int = 0,
    **request: Any,
) -> Answer:
    fields: dict[str, Any] = {"prompt": "hi", "max_new_tokens": 50} | request
    job = JobRequest("m", sampling or SamplingParams(), **fields)
    return Answer(job, make_plan(job, session, capacity, tokenizer), tokenizer, choice)


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, False)


def write(answer: Answer, chosen: list[int]) -> str:
    """Push ids until the answer ends; its text."""
    return take(answer, [Choice(id) for id in chosen])


def take(answer: Answer, chosen: list[Choice]) -> str:
    for each in chosen:
        if not answer.ending:
            answer.push(each)
    return "".join(token.text for token in answer.tokens)


def test_tokens_until_the_limit() -> None:
    answer = begin(max_new_tokens=3)
    chosen = ids("abc")
    assert [answer.push(Choice(id)) for id in chosen] == [
        Token(id, text) for id, text in zip(chosen, "abc", strict=True)
    ]
    assert answer.ending == JobFinished(FinishReason.LENGTH, len(PROMPT), 3)
    assert answer.commit == SessionCommit(PROMPT + chosen)
    assert answer.ids == PROMPT + chosen
    assert answer.ids[answer.start :] == chosen


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
    assert [TOKENIZER.piece(id) for id in ids("hello")] == [b"he", b"llo"]
    answer = begin(stop=("###",), extra_stop=("lo",))
    assert write(answer, ids("hello")) == "hello"
    assert answer.commit == SessionCommit(PROMPT + ids("he") + ids("l") + ids("###"))


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
    assert [going_on.push(Choice(third)), going_on.push(Choice(last))] == [Token(third, "✔"), Token(last, "b")]
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


def test_special_tokens_without_text_end_the_answer_too() -> None:
    answer = begin(show_special=False)
    assert write(answer, [*ids("a"), BOS, *ids("b"), EOS]) == "ab"
    assert answer.ending == JobFinished(FinishReason.STOP, len(PROMPT), 4)
    assert answer.commit == SessionCommit([*PROMPT, *ids("a"), BOS, *ids("b"), EOS])


def test_stop_tokens_end_the_answer_as_end_of_text_does() -> None:
    (colon,) = ids(":")
    answer = begin(sampling=SamplingParams(stop_token_ids=(colon, 7)))
    assert write(answer, [*ids("ab"), colon, *ids("c")]) == "ab:"
    assert answer.ending == JobFinished(FinishReason.STOP, len(PROMPT), 3)
    assert answer.commit == SessionCommit([*PROMPT, *ids("ab"), colon])


def test_end_of_text_may_be_ignored() -> None:
    answer = begin(sampling=SamplingParams(ignore_eos=True, stop_token_ids=(BOS,)))
    assert write(answer, [*ids("a"), EOS, *ids("b"), BOS]) == "a</s>b<s>"
    assert answer.ending == JobFinished(FinishReason.STOP, len(PROMPT), 4)


def test_a_hidden_stop_is_neither_text_nor_kept() -> None:
    answer = begin(stop=("cde",), show_stop=False)
    assert write(answer, ids("abcde")) == "ab"
    assert [token.text for token in answer.tokens] == ["a", "b", "", "", ""]
    assert answer.ending == JobFinished(FinishReason.STOP, len(PROMPT), 5)
    assert answer.commit == SessionCommit(PROMPT + ids("ab"))


def test_a_hidden_stop_that_begins_inside_a_token() -> None:
    answer = begin(stop=("loa",), show_stop=False)
    assert write(answer, ids("hello") + ids("ab")) == "hel"
    assert answer.commit == SessionCommit(PROMPT + ids("he") + ids("l"))


def test_a_hidden_extra_stop_is_like_any_other() -> None:
    answer = begin(stop=("###",), extra_stop=("bc",), show_stop=False)
    assert write(answer, ids("abcd")) == "a"
    assert answer.commit == SessionCommit(PROMPT + ids("a"))


def test_what_was_no_hidden_stop_comes_with_the_token_that_decides_it() -> None:
    answer = begin(stop=("bcd",), show_stop=False)
    write(answer, ids("abcef"))
    assert [token.text for token in answer.tokens] == ["a", "", "", "bce", "f"]


def test_what_may_be_a_hidden_stop_comes_with_the_last_token() -> None:
    # at a limit
    answer = begin(stop=("bcd",), show_stop=False, max_new_tokens=3)
    write(answer, ids("abc"))
    assert [token.text for token in answer.tokens] == ["a", "", "bc"]
    assert answer.commit == SessionCommit(PROMPT + ids("abc"))
    # at the end of the text, which is not shown where stops are not
    answer = begin(stop=("bcd",), show_stop=False)
    write(answer, [*ids("abc"), EOS])
    assert [token.text for token in answer.tokens] == ["a", "", "", "bc"]
    assert answer.commit == SessionCommit([*PROMPT, *ids("abc"), EOS])


def test_a_hidden_stop_token_has_no_text() -> None:
    (d,) = ids("d")
    answer = begin(show_stop=False, stop=("cd",), sampling=SamplingParams(stop_token_ids=(d,)))
    assert write(answer, ids("abcd")) == "abc"
    assert answer.commit == SessionCommit(PROMPT + ids("abcd"))


def test_what_was_withheld_from_a_cancelled_answer_is_not_kept() -> None:
    answer = begin(stop=("bcd",), show_stop=False)
    assert write(answer, ids("abc")) == "a"
    answer.cancel()
    assert answer.ending == JobFinished(FinishReason.CANCELLED, len(PROMPT), 3)
    assert answer.commit == SessionCommit(PROMPT + ids("a"))


@given(
    st.lists(st.sampled_from(["#", "##", "###", "a", "hello", "✔", "Human:"]), max_size=12),
    st.lists(st.sampled_from(["###", "##a", "llo", "o✔", "#Hu", "✔a"]), max_size=3),
    st.booleans(),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_client_and_session_have_the_same_text(texts: list[str], stops: list[str], show_stop: bool) -> None:
    # given an answer that runs into a stop, or is cancelled
    answer = begin(stop=tuple(stops), show_stop=show_stop)
    shown = write(answer, [id for text in texts for id in ids(text)])
    if not answer.ending:
        answer.cancel()
    # then its text is that of a search in the whole text
    assert shown == StopFinder(stops, show_stop).push("".join(texts))[0]
    # and the session goes on with it
    assert TOKENIZER.decode(answer.commit.ids if answer.commit else PROMPT) == TOKENIZER.decode(PROMPT) + shown


def test_tokens_say_how_probable_they_were() -> None:
    # given half a character among the most probable tokens
    first, second, third = ids("✔")
    (a,) = ids("a")
    answer = begin(sampling=SamplingParams(logprobs=2), choice=3)
    # when the model chooses another one than the best
    tokens = [
        answer.push(Choice(first, -0.5, ((first, -0.5), (a, -1.5)))),
        answer.push(Choice(second, -2.0, ((EOS, -0.25), (a, -0.75)))),
        answer.push(Choice(third, -0.125, ((third, -0.125), (a, -3.0)))),
    ]
    # then bytes tell what each stands for
    bytes_ = [bytes([byte]) for byte in "✔".encode()]
    assert tokens == [
        Token(first, "", 3, Logprobs(bytes_[0], -0.5, ((bytes_[0], -0.5), (b"a", -1.5)))),
        Token(second, "", 3, Logprobs(bytes_[1], -2.0, ((b"</s>", -0.25), (b"a", -0.75)))),
        Token(third, "✔", 3, Logprobs(bytes_[2], -0.125, ((bytes_[2], -0.125), (b"a", -3.0)))),
    ]
    assert answer.logprob == -2.625


def test_an_answer_to_be_compared_is_as_probable_as_its_tokens_together() -> None:
    answer = begin()
    assert answer.push(Choice(ids("a")[0], -0.5)) == Token(ids("a")[0], "a")
    answer.push(Choice(ids("b")[0], -0.25))
    assert answer.logprob == -0.75


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


@pytest.mark.parametrize("tokenizer", [byte_level(), sentence_piece()], ids=["bytes", "pieces"])
@pytest.mark.parametrize("show_stop", [True, False])
@pytest.mark.parametrize("before", range(12))
def test_replay_goes_on_as_if_nothing_had_happened(tokenizer: FastTokenizer, show_stop: bool, before: int) -> None:
    # given an answer with half characters and a stop across tokens
    request: dict[str, Any] = {"stop": ("стоп",), "extra_stop": ("end",), "show_stop": show_stop}
    request["sampling"] = SamplingParams(logprobs=1)
    chosen = [Choice(id, -0.5, ((id, -0.5),)) for id in tokenizer.encode(" a✔b стоп c", False)]
    whole = begin(tokenizer, choice=1, **request)
    take(whole, chosen)
    # when another worker takes over after some of its tokens, which are not alone in the log
    again = begin(tokenizer, choice=1, **request)
    again.replay([Token(EOS, "</s>"), *whole.tokens[:before], Token(EOS, "</s>", 2)])
    take(again, chosen[before:])
    # then nothing differs
    assert again.tokens == whole.tokens
    assert (again.ending, again.commit, again.ids) == (whole.ending, whole.commit, whole.ids)
    assert again.logprob == whole.logprob == -0.5 * len(whole.tokens)


def test_a_log_that_reached_the_limit_ends_at_once() -> None:
    answer = begin(max_new_tokens=2)
    answer.replay([Token(id, "") for id in ids("ab")])
    assert answer.ending == JobFinished(FinishReason.LENGTH, len(PROMPT), 2)
