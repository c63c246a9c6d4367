"""From token ids to text, token by token: whole characters only, spaces as the model wrote them."""

import codecs
from collections.abc import Sequence

from worker.backend import Tokenizer

BROKEN = "\N{REPLACEMENT CHARACTER}"  # a decoder's sign for bytes that are no whole character


class Detokenizer:
    """Text of a growing sequence of ids: their bytes, read as UTF-8. A character comes with its last byte.

    before: the ids that precede. The last `held` of them end with a part of a character that belongs to this text;
        otherwise it is forgotten.
    show_special: whether special tokens have text; without it, what surrounds one is read as if it was not there.

    All texts together are what the tokenizer's `decode` makes of all ids with those before them (and without hidden
    ones), less the text of those before. Only where bytes are no whole character do the two differ: `decode` writes
    U+FFFD, here that is left out, even if the model wrote it itself; and where `decode` gives up whole characters too,
    because broken bytes stand beside them (SentencePiece, in a row of byte tokens), they are given out here.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int], held: int = 0, show_special: bool = True) -> None:
        self.held = 0  # how many of the last ids it takes to tell the bytes of an incomplete character
        self._tokenizer = tokenizer
        self._hidden = frozenset[int]() if show_special else tokenizer.special_ids
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        shown = len(before) - held
        self._begins = not any(self._piece(id) for id in before[:shown])
        for id in before[shown:]:
            self.push(id)  # what it completes was given out before

    def push(self, token: int) -> str:
        """Take one more id; the text that is complete now, which may be empty."""
        piece = self._piece(token)
        if self._begins and piece:
            self._begins = False
            piece = self._first(token)
        text = self._utf8.decode(piece)
        waiting = len(self._utf8.getstate()[0])
        if not waiting:
            self.held = 0
        else:
            self.held = 1 if waiting <= len(piece) else self.held + 1
        return text.replace(BROKEN, "")

    def _piece(self, token: int) -> bytes:
        return b"" if token in self._hidden else self._tokenizer.piece(token)

    def _first(self, token: int) -> bytes:
        """The bytes of a token that begins a text: the space that SentencePiece invents there is none of it."""
        text = self._tokenizer.decode([token])
        return self._tokenizer.piece(token) if BROKEN in text else text.encode()
