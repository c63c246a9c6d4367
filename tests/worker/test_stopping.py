"""Stop strings are found wherever the pieces of a text are cut, and hidden ones are never given out, not in part."""

from collections.abc import Iterable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.stopping import Match, StopFinder

STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)
PIECES = st.lists(st.text("ab", max_size=5), max_size=8)


def read(stops: Sequence[str], pieces: Iterable[str], show: bool = True) -> tuple[list[str], Match | None]:
    """What is given out for each piece up to a stop string, and for the end of the text where there is none."""
    finder = StopFinder(stops, show)
    given_out = []
    for piece in pieces:
        text, match = finder.push(piece)
        given_out.append(text)
        if match:
            return given_out, match
    return [*given_out, finder.rest], None


def find(stops: list[str], pieces: list[str]) -> Match | None:
    return read(stops, pieces)[1]


def first_stop(stops: Sequence[str], text: str) -> Match | None:
    """The reference: looks at every beginning of the text."""
    for end in range(1, len(text) + 1):
        for index, stop in enumerate(stops):
            if stop and text[:end].endswith(stop):
                return Match(index, end - len(stop), end)
    return None


def undecided(stops: Sequence[str], text: str) -> int:
    """The reference: the longest end of the text that may become a stop string."""
    beginnings = {stop[:length] for stop in stops for length in range(1, len(stop))}
    return max((length for length in range(1, len(text) + 1) if text[-length:] in beginnings), default=0)


def test_a_stop_across_pieces() -> None:
    assert find(["###"], ["Hi", "!#", "#", "#Human"]) == Match(0, 3, 6)


def test_a_stop_inside_a_piece() -> None:
    assert find(["###"], ["Hi!###Human###"]) == Match(0, 3, 6)


def test_the_stop_that_is_complete_first_counts() -> None:
    assert find(["long stop", "st"], ["a long stop"]) == Match(1, 7, 9)


def test_of_stops_that_end_together_the_one_named_first_counts() -> None:
    assert find(["##", "###"], ["a###"]) == Match(0, 1, 3)
    assert find(["###", "x###"], ["ax###"]) == Match(0, 2, 5)
    assert find(["x###", "###"], ["ax###"]) == Match(0, 1, 5)


def test_no_stop() -> None:
    assert find([], ["a", "b"]) is None
    assert find(["", "###"], ["#", "", "a##"]) is None


def test_text_after_a_stop_is_searched_from_there() -> None:
    finder = StopFinder(["ab"])
    assert finder.push("ab") == ("ab", Match(0, 0, 2))
    assert finder.push("b") == ("b", None)
    assert finder.push("ab") == ("ab", Match(0, 3, 5))


def test_a_stop_that_is_shown_ends_the_text_at_once() -> None:
    assert read(["###"], ["a#", "#", "#b"]) == (["a#", "#", "#"], Match(0, 1, 4))
    assert read(["###"], ["a#", "#b"]) == (["a#", "#b", ""], None)


def test_what_may_become_a_hidden_stop_waits() -> None:
    assert read(["###"], ["a#", "#", "#b"], show=False) == (["a", "", ""], Match(0, 1, 4))
    assert read(["###"], ["a#", "#b"], show=False) == (["a", "##b", ""], None)
    assert read(["###"], ["a#", "#"], show=False) == (["a", "", "##"], None)
    assert read(["ends", "dot"], ["the en", "do", "r"], show=False) == (["the ", "en", "dor", ""], None)


def test_a_stop_that_is_complete_sooner_frees_what_waited_for_another() -> None:
    assert read(["abcd", "bc"], ["xa", "b", "c"], show=False) == (["x", "", "a"], Match(1, 2, 4))


@given(PIECES, STOPS)
@settings(max_examples=500, deadline=None, derandomize=True)
def test_a_shown_stop_ends_the_text_however_it_is_cut(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    expected = first_stop(stops, text)
    given_out, found = read(stops, pieces)
    assert found == expected
    assert "".join(given_out) == (text[: expected.end] if expected else text)


@given(PIECES, STOPS)
@settings(max_examples=500, deadline=None, derandomize=True)
def test_a_hidden_stop_is_no_part_of_the_text_however_it_is_cut(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    expected = first_stop(stops, text)
    given_out, found = read(stops, pieces, show=False)
    assert found == expected
    assert "".join(given_out) == (text[: expected.start] if expected else text)


@given(PIECES, STOPS)
@settings(max_examples=500, deadline=None, derandomize=True)
def test_no_more_waits_than_must(pieces: list[str], stops: list[str]) -> None:
    finder = StopFinder(stops, show=False)
    text = given_out = ""
    for piece in pieces:
        decided, found = finder.push(piece)
        if found:
            break
        text, given_out = text + piece, given_out + decided
        assert finder.withheld == undecided(stops, text)
        assert given_out + finder.rest == text
        assert len(finder.rest) == finder.withheld
