"""Stop strings in a text that comes in pieces."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Match:
    """The stop string that was found: its place in the sequence of stops, and where it is in the whole text."""

    index: int
    start: int
    end: int


class StopFinder:
    """Finds the stop string that is complete first; of those complete at once, the one named first."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [(index, stop) for index, stop in enumerate(stops) if stop]
        self._reach = max((len(stop) for _, stop in self._stops), default=1) - 1
        self._tail = ""
        self._length = 0  # of the whole text

    def push(self, text: str) -> Match | None:
        """Take the text's next piece; looks at it and at as much before it as a stop string is long."""
        window = self._tail + text
        offset = self._length - len(self._tail)
        self._length += len(text)
        found: Match | None = None
        for index, stop in self._stops:
            place = window.find(stop, max(0, len(self._tail) - len(stop) + 1))
            end = offset + place + len(stop)
            if place >= 0 and (found is None or end < found.end):
                found = Match(index, offset + place, end)
        self._tail = window[max(0, len(window) - self._reach) :]
        return found
