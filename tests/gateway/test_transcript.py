"""Comparing a log that is read again with what was delivered."""

import pytest

from gateway.transcript import Transcript
from shared.errors import Code, CorollaError
from shared.messages import Ending, FinishReason, JobFailed, JobFinished, LogEntry, Token

DONE = JobFinished(FinishReason.STOP)
CANCELLED = JobFinished(FinishReason.CANCELLED)
FAILED = JobFailed(Code.SWARM, "no server")


def entry(first: int, texts: str, ending: Ending | None = None) -> LogEntry:
    """One token a letter."""
    return LogEntry(first, tuple(Token(ord(text), text) for text in texts), ending)


def assert_discontinuity(transcript: Transcript, again: LogEntry) -> None:
    with pytest.raises(CorollaError) as caught:
        transcript.accept(again)
    assert caught.value.code is Code.DISCONTINUITY


def test_what_is_new_is_passed_on() -> None:
    transcript = Transcript()
    assert transcript.accept(entry(1, "ab")) == entry(1, "ab")
    assert transcript.accept(entry(3, "c", DONE)) == entry(3, "c", DONE)
    assert transcript.last == 3


def test_what_is_repeated_is_left_out() -> None:
    transcript = Transcript()
    transcript.accept(entry(1, "abc"))
    assert transcript.accept(entry(1, "ab")) is None
    assert transcript.accept(entry(2, "bcd")) == entry(4, "d")
    assert transcript.accept(entry(4, "d", DONE)) == entry(5, "", DONE)


@pytest.mark.parametrize(
    "again",
    [entry(1, "x"), entry(3, "xd"), entry(3, "", DONE), entry(2, "b", DONE), LogEntry(2, (Token(1, "b"),), None)],
    ids=["another token", "another one before a new one", "a shorter answer", "likewise", "another id, the same text"],
)
def test_what_contradicts_is_a_discontinuity(again: LogEntry) -> None:
    transcript = Transcript()
    transcript.accept(entry(1, "abc"))
    assert_discontinuity(transcript, again)


@pytest.mark.parametrize("ending", [FAILED, CANCELLED])
def test_a_job_may_break_off_earlier_the_second_time(ending: Ending) -> None:
    transcript = Transcript()
    transcript.accept(entry(1, "abc"))
    assert transcript.accept(entry(2, "b", ending)) == entry(4, "", ending)


def test_what_lies_before_the_beginning_is_left_out() -> None:
    transcript = Transcript(7)
    assert transcript.accept(entry(6, "xyz")) == entry(8, "z")
    assert_discontinuity(transcript, entry(8, "!"))


def test_an_ending_before_the_beginning_is_a_discontinuity() -> None:
    assert_discontinuity(Transcript(7), entry(7, "", DONE))
