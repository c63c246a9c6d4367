"""What was delivered of an answer, to compare with what its log says when it is read again."""

import zlib
from array import array

from shared.errors import Discontinuity
from shared.messages import FinishReason, JobFinished, LogEntry, Token


class Transcript:
    """Four bytes for each token that was delivered after the seq `base`.

    A log that was lost is generated again, equal in all but rare cases. In those the client must be told.
    """

    def __init__(self, base: int = 0) -> None:
        self._base = base
        self._marks = array("I")

    @property
    def last(self) -> int:
        """The seq of the last token that was delivered."""
        return self._base + len(self._marks)

    def accept(self, entry: LogEntry) -> LogEntry | None:
        """The part of the entry that is new, None where nothing is.

        Raises Discontinuity where it contradicts what was delivered.
        """
        first = self.last + 1
        fresh: list[Token] = []
        for seq, token in enumerate(entry.tokens, start=entry.first):
            mark = zlib.crc32(f"{token.id} {token.text}".encode())
            if seq > self.last:
                self._marks.append(mark)
                fresh.append(token)
            elif seq > self._base and self._marks[seq - self._base - 1] != mark:
                raise Discontinuity
        end = entry.first + len(entry.tokens)
        whole = isinstance(entry.ending, JobFinished) and entry.ending.reason is not FinishReason.CANCELLED
        if whole and end != self.last + 1:
            raise Discontinuity
        return LogEntry(first, tuple(fresh), entry.ending) if fresh or entry.ending else None
