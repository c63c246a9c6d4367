"""From token ids to text, token by token: whole characters only, spaces as the model wrote them.

A token may hold a part of a character, and some decoders drop the space before the first word of what they are given.
So ids are decoded together with those just before them, and text is what the result has more than before.
"""

from collections.abc import Callable, Sequence

BROKEN = "\N{REPLACEMENT CHARACTER}"  # a decoder's sign for bytes that are no whole character

_LONGEST = 4  # bytes of a character in UTF-8, so also the most tokens that one can be spread over
_PATIENCE = 2 * _LONGEST


class Detokenizer:
    """Text of a growing sequence of ids.

    decode: text of ids, with U+FFFD for broken characters.
    before: the ids that precede; the last `held` of them have text that was not given out yet.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], before: Sequence[int], held: int = 0) -> None:
        self._decode = decode
        shown, hidden = before[: len(before) - held], before[len(before) - held :]
        context = self._context(shown)
        self._window = [*context, *hidden]
        self._read = len(context)  # so many ids of the window have been given out, as the text `_known`
        self._known = decode(context)

    @property
    def held(self) -> int:
        """How many of the last ids have text that is not given out, because a character is incomplete."""
        return len(self._window) - self._read

    def push(self, token: int) -> str:
        """Take one more id; the text that is complete now, which may be empty."""
        self._window.append(token)
        text = self._decode(self._window)
        if not text.endswith(BROKEN):
            return self._give_out(text, len(self._window))
        return self._give_up(text) if self.held > _PATIENCE else ""

    def _context(self, ids: Sequence[int]) -> Sequence[int]:
        """The fewest of the last ids that begin and end with whole characters."""
        for count in range(1, _PATIENCE):
            if BROKEN not in self._decode(ids[-count:]):
                return ids[-count:]
        return ids[-1:]

    def _give_out(self, text: str, upto: int) -> str:
        delta = text[len(self._known) :].replace(BROKEN, "")
        self._window = self._window[self._read :]
        self._read = upto - self._read
        self._known = self._decode(self._window[: self._read])
        return delta

    def _give_up(self, text: str) -> str:
        """Drop broken bytes that nothing can complete any more: all but the last few, up to a character's border.

        At a border, and only there, the parts decode to the same as the whole.
        """
        end = len(self._window) - _LONGEST + 1
        for border in range(end, end - _LONGEST, -1):
            head = self._decode(self._window[:border])
            if head + self._decode(self._window[border:]) == text:
                return self._give_out(head, border)
        return ""
