"""What the engine needs of a model: a tokenizer, and sessions that take ids and give the next one."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from shared.sampling import SamplingParams


class Tokenizer(Protocol):
    """Text to ids and back."""

    bos_id: int | None
    eos_ids: frozenset[int]

    def encode(self, text: str, fresh: bool) -> list[int]:
        """Ids of `text`. fresh: at the start of a session, with the special tokens (BOS) that belong there."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens kept, spaces untouched; U+FFFD stands for bytes that are no whole character."""


@dataclasses.dataclass(frozen=True)
class Draw:
    """How to choose one token.

    history: every id of the session so far, those being fed included; the penalties look at it.
    position: how many tokens this job has emitted; with the seed it names the random number.
    """

    sampling: SamplingParams
    history: Sequence[int]
    position: int


class BackendSession(Protocol):
    """An attention cache that remembers the ids fed to it. One step at a time; those of different sessions overlap."""

    async def step(self, ids: Sequence[int], draw: Draw) -> int:
        """Feed `ids` (at least one) and choose the next token, which is not fed.

        Raises CorollaError: SWARM where no server could do it, CACHE_FULL where the servers have no room. After any
        error, cancellation included, the session is of no further use and must be closed.
        """

    async def close(self) -> None:
        """Free the cache, on the servers too; never fails, never blocks the loop, may be called again."""


class Backend(Protocol):
    """One model, loaded."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Used by several threads at once."""

    def open(self, max_length: int) -> BackendSession:
        """A session with room for `max_length` ids; contacts no server before its first step."""

    async def stop(self) -> None:
        """End the processes and connections that belong to the model."""
