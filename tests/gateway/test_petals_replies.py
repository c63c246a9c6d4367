"""Tokens cut into reply messages."""

from gateway.petals_replies import Replies, Reply
from shared.errors import Code
from shared.messages import Ending, FinishReason, JobFailed, JobFinished, LogEntry, Token

DONE = JobFinished(FinishReason.STOP)
FULL = JobFailed(Code.TOO_LONG, "full")
LIMIT = JobFinished(FinishReason.LENGTH)


def entries(*texts: str, size: int = 1, ending: Ending | None = DONE) -> list[LogEntry]:
    """A log of tokens with these texts, `size` to an entry, the ending in the last one."""
    tokens = [Token(number, text) for number, text in enumerate(texts)]
    groups = [tuple(tokens[start : start + size]) for start in range(0, len(tokens), size)]
    lasts = [False] * (len(groups) - 1) + [True]
    return [
        LogEntry(1 + size * number, group, ending if last else None)
        for number, (group, last) in enumerate(zip(groups, lasts, strict=True))
    ]


def replies(chunk: int | None, log: list[LogEntry]) -> list[Reply]:
    cutter = Replies(chunk, 0)
    return [reply for entry in log for reply in cutter.feed(entry)]


def test_without_chunks_there_is_one_reply() -> None:
    assert replies(None, entries("a", "b", "c")) == [Reply("abc", 3, 3, DONE)]


def test_token_by_token() -> None:
    expected = [Reply("a", 1, 1), Reply("b", 1, 2), Reply("c", 1, 3, DONE)]
    assert replies(1, entries("a", "b", "c")) == expected
    assert replies(1, entries("a", "b", "c", size=2)) == expected
    assert replies(1, entries("a", "b", "c", size=3)) == expected


def test_the_last_chunk_may_be_short() -> None:
    assert replies(2, entries("a", "b", "c")) == [Reply("ab", 2, 2), Reply("c", 1, 3, DONE)]
    assert replies(2, entries("a", "b", "c", "d")) == [Reply("ab", 2, 2), Reply("cd", 2, 4, DONE)]


def test_a_character_in_several_tokens_comes_in_one_message() -> None:
    log = entries("a", "", "", "✓", "b")
    assert replies(1, log) == [Reply("a", 1, 1), Reply("✓", 3, 4), Reply("b", 1, 5, DONE)]
    assert replies(2, log) == [Reply("a✓", 4, 4), Reply("b", 1, 5, DONE)]


def test_half_a_character_at_the_end_is_left_out_but_counted() -> None:
    assert replies(1, entries("a", "", ending=LIMIT)) == [
        Reply("a", 1, 1),
        Reply("", 1, 2, LIMIT),
    ]


def test_an_ending_without_a_token() -> None:
    log = [*entries("a", "b", ending=None), LogEntry(3, (), DONE)]
    assert replies(1, log) == [Reply("a", 1, 1), Reply("b", 1, 2), Reply("", 0, 2, DONE)]


def test_a_stream_that_fails_tells_all_it_has() -> None:
    log = [*entries("a", "b", "c", ending=None), LogEntry(4, (), FULL)]
    assert replies(2, log) == [Reply("ab", 2, 2), Reply("c", 1, 3)]
    assert replies(2, entries("a", "b", "c", size=3, ending=FULL)) == [
        Reply("ab", 2, 2),
        Reply("c", 1, 3),
    ]


def test_a_single_reply_that_fails_tells_nothing() -> None:
    assert replies(None, [*entries("a", "b", ending=None), LogEntry(3, (), FULL)]) == []


def test_going_on_after_a_cursor() -> None:
    cutter = Replies(1, 7)
    assert list(cutter.feed(LogEntry(8, (Token(1, "h"),), DONE))) == [Reply("h", 1, 8, DONE)]
