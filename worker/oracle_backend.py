"""The backend `oracle`: its token at position p of an answer is a hash of (seed, p).

So every stream can be checked to the byte, whoever made it; load and faults are measured with it, without a model.
"""

import asyncio
import hashlib
import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from worker.backend import Choice, Draw

DIMENSIONS = 32  # of an embedding

_WORDS = 256  # ids below are single bytes; those from here are words
_BOS = _WORDS + 2**16
_SEEDS = 2**64


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

    size = _BOS + 1
    chat_template: str | None = None
    marks: Mapping[str, object] = MappingProxyType({"bos_token": "<s>"})
    bos_id: int | None = _BOS
    eos_ids: frozenset[int] = frozenset()
    special_ids: frozenset[int] = frozenset({_BOS})

    def encode(self, text: str, fresh: bool) -> list[int]:
        """The bytes of `text`; a fresh session needs nothing before it."""
        return list(text.encode())

    def encode_marked(self, text: str) -> list[int]:
        """The bytes of `text`."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; U+FFFD stands for bytes that are no whole character."""
        return b"".join(self.piece(id) for id in ids).decode(errors="replace")

    def piece(self, id: int) -> bytes:
        """The bytes of this id."""
        if id < _WORDS:
            return bytes([id])
        return b"<s>" if id == _BOS else _word(id).encode()


class OracleSession:
    """Counts the ids that each row is fed, and refuses more than there is room for."""

    def __init__(self, max_length: int, step_s: float) -> None:
        self._room = max_length
        self._step_s = step_s

    async def step(
        self, ids: Sequence[Sequence[int]], draws: Sequence[Draw], parents: Sequence[int] | None = None
    ) -> list[Choice]:
        """The token of (seed, position) for every row, after the time of a step; see BackendSession."""
        self._room -= len(ids[0])
        if self._room < 0:
            raise ValueError("fed more ids than the session has room for")
        await asyncio.sleep(self._step_s)
        return [_choose(draw) for draw in draws]

    async def total(self, ids: Sequence[int]) -> Sequence[float]:
        """Bytes of a hash of the ids, around 0, after the time of a step."""
        await asyncio.sleep(self._step_s)
        digest = hashlib.blake2b(struct.pack(f"<{len(ids)}I", *ids), digest_size=DIMENSIONS).digest()
        return [byte - 127.5 for byte in digest]

    async def score(self, ids: Sequence[int], draws: Sequence[Draw]) -> list[Choice]:
        """What `_choose` says of every token, after the time of a step; see BackendSession."""
        await asyncio.sleep(self._step_s)
        return [_choose(draw) for draw in draws]

    async def close(self) -> None:
        """There is nothing to free."""


def _choose(draw: Draw) -> Choice:
    """Row r draws as row 0 of the seed r higher does. It is sure of its token (logprob 0); the ranks below hold those
    of the seeds above, each less likely than the one before. Of a token that was said before, the logarithm is its id
    by -256."""
    if draw.known is not None:
        logprob = -draw.known / _WORDS
        return Choice(draw.known, logprob, ((draw.known, logprob),) if draw.sampling.logprobs else ())
    seed = draw.sampling.seed + draw.row
    if draw.ranked:
        ranked = tuple((token((seed + rank) % _SEEDS, draw.position), -float(rank)) for rank in range(draw.ranked))
        return Choice(ranked[0][0], ranked=ranked)
    id = token(seed % _SEEDS, draw.position)
    if draw.sampling.logprobs is None:
        return Choice(id)
    return Choice(id, 0.0, ((id, 0.0),) if draw.sampling.logprobs else ())


class OracleBackend:
    """A model that needs no weights. step_ms: how long it takes over a step, be it a token or a piece of a prompt."""

    def __init__(self, step_ms: float) -> None:
        self.tokenizer = OracleTokenizer()
        self._step_s = step_ms / 1000

    def open(self, max_length: int, rows: int = 1) -> OracleSession:
        """A session with room for `max_length` ids in each row."""
        return OracleSession(max_length, self._step_s)

    def coverage(self) -> None:
        """There are no blocks."""

    async def stop(self) -> None:
        """There is nothing to end."""
