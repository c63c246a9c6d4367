"""Stop strings are found wherever the pieces of a text are cut."""

from hypothesis import given
from hypothesis import strategies as st

from worker.stopping import Match, StopFinder


def find(stops: list[str], pieces: list[str]) -> Match | None:
    finder = StopFinder(stops)
    return next((match for piece in pieces if (match := finder.push(piece))), None)


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
    assert finder.push("ab") == Match(0, 0, 2)
    assert finder.push("b") is None
    assert finder.push("ab") == Match(0, 3, 5)


@given(st.lists(st.text("ab", max_size=5), max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_as_if_the_text_came_character_by_character(pieces: list[str], stops: list[str]) -> None:
    found = find(stops, pieces)
    text = "".join(pieces)
    ends = [end for end in range(1, len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    assert (found.end if found else None) == (ends[0] if ends else None)
    if found:
        assert text[found.start : found.end] == stops[found.index]
