"""The backend `oracle`: its token at position p of an answer is a hash of (seed, p).

So every stream can be checked to the byte, whoever made it; load and faults are measured with it, without a model.
"""

import asyncio
import hashlib
import struct
from collections.abc import Sequence

from worker.backend import Draw

_WORDS = 256  # ids below are single bytes; those from here are words
_BOS = _WORDS + 2**16


def token(seed: int, position: int) -> int:
    """The id at this position (from 0) of any answer with this seed; always that of a word."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed, position), digest_size=2).digest()
    return _WORDS + int.from_bytes(digest, "little")


def text(seed: int, start: int, count: int) -> str:
    """The text of `count` tokens from position `start` on: five characters each."""
    return "".join(_word(token(seed, position)) for position in range(start, start + count))


def _word(id: int) -> str:
    return f"{id - _WORDS:04x} "


class OracleTokenizer:
    """A text is its UTF-8 bytes; ids above are words of four hexadecimal digits and a space, and BOS."""

    bos_id: int | None = _BOS
    eos_ids: frozenset[int] = frozenset()

    def encode(self, text: str, fresh: bool) -> list[int]:
        """The bytes of `text`; a fresh session needs nothing before it."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; U+FFFD stands for bytes that are no whole character."""
        return b"".join(_spelled(id) for id in ids).decode(errors="replace")


def _spelled(id: int) -> bytes:
    if id < _WORDS:
        return bytes([id])
    return b"<s>" if id == _BOS else _word(id).encode()


class OracleSession:
    """Counts the ids that it is fed, and refuses more than there is room for."""

    def __init__(self, max_length: int, step_s: float) -> None:
        self._room = max_length
        self._step_s = step_s

    async def step(self, ids: Sequence[int], draw: Draw) -> int:
        """The token of (seed, position), after the time of a step."""
        self._room -= len(ids)
        if self._room < 0:
            raise ValueError("fed more ids than the session has room for")
        await asyncio.sleep(self._step_s)
        return token(draw.sampling.seed, draw.position)

    async def close(self) -> None:
        """There is nothing to free."""


class OracleBackend:
    """A model that needs no weights. step_ms: how long it takes over a token."""

    def __init__(self, step_ms: float) -> None:
        self.tokenizer = OracleTokenizer()
        self._step_s = step_ms / 1000

    def open(self, max_length: int) -> OracleSession:
        """A session with room for `max_length` ids."""
        return OracleSession(max_length, self._step_s)

    async def stop(self) -> None:
        """There is nothing to end."""
