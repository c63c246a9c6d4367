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
    """Finds the stop string that is complete first; of those complete at once, the one named first.

    show: whether the stop string is part of the text. Where it is not, text that it may begin with is withheld until
    that is decided. withheld: how many of the last characters those are.
    """

    def __init__(self, stops: Sequence[str], show: bool = True) -> None:
        self.withheld = 0
        self._stops = [(index, stop) for index, stop in enumerate(stops) if stop]
        self._reach = max((len(stop) for _, stop in self._stops), default=1) - 1
        self._show = show
        self._tail = ""
        self._length = 0  # of the whole text

    @property
    def rest(self) -> str:
        """The text that is withheld: if nothing follows it, it is part of the text after all."""
        return self._tail[len(self._tail) - self.withheld :]

    def push(self, text: str) -> tuple[str, Match | None]:
        """Take the text's next piece; the text that is decided now, nothing behind a stop string, and that.

        Looks at the piece and at as much before it as a stop string is long.
        """
        if not self._stops:
            return text, None
        window = self._tail + text
        offset = self._length - len(self._tail)
        begin = len(self._tail) - self.withheld
        found = self._find(window, offset)
        if found:
            self.withheld = 0
            end = (found.end if self._show else found.start) - offset
        else:
            self.withheld = 0 if self._show else self._undecided(window)
            end = len(window) - self.withheld
        self._length += len(text)
        self._tail = window[max(0, len(window) - self._reach) :]
        return window[begin:end], found

    def _find(self, window: str, offset: int) -> Match | None:
        """The first match in the window, which begins at `offset` in the text, that ends behind the tail."""
        found: Match | None = None
        for index, stop in self._stops:
            place = window.find(stop, max(0, len(self._tail) - len(stop) + 1))
            end = offset + place + len(stop)
            if place >= 0 and (found is None or end < found.end):
                found = Match(index, offset + place, end)
        return found

    def _undecided(self, window: str) -> int:
        """Length of the longest end of the window that a stop string, longer than that, begins with."""
        first = len(window)
        for _, stop in self._stops:
            place = window.find(stop[0], max(0, len(window) - len(stop) + 1), first)
            while place >= 0 and not stop.startswith(window[place:]):
                place = window.find(stop[0], place + 1, first)
            if place >= 0:
                first = place
        return len(window) - first
