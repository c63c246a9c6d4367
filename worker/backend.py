"""What the engine needs of a model: a tokenizer, and sessions that take ids and choose the next ones."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from shared.messages import Logprobs
from shared.reports import Coverage
from shared.sampling import SamplingParams

MAX_POSITIONS = 512  # rows x positions that one step may feed: bounds its time, and its message to the swarm


class Tokenizer(Protocol):
    """Text to ids and back.

    size: all ids are below it. chat_template: the model's own, in Jinja; None where it has none. marks: its special
    tokens by the names that such a template has for them (bos_token, eos_token, ...).
    """

    size: int
    chat_template: str | None
    marks: Mapping[str, object]
    bos_id: int | None
    eos_ids: frozenset[int]
    special_ids: frozenset[int]

    def encode(self, text: str, fresh: bool) -> list[int]:
        """Ids of `text`. fresh: at the start of a session, with the special tokens (BOS) that belong there."""

    def encode_marked(self, text: str) -> list[int]:
        """Ids of a text that begins a session and names its special tokens itself."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens kept, spaces untouched; U+FFFD stands for bytes that are no whole character."""

    def piece(self, id: int) -> bytes:
        """The bytes that this token stands for in the middle of a text, perhaps a part of a character."""


@dataclasses.dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Draw:
    """How to choose the tokens of one row: the same object for all of them, so that work for one may help the next.

    ids: every id of the row so far, those being fed included; a list that grows from step to step, not a copy.
    start: where the answer begins in it: the penalties and min_tokens look at what was answered, and the number of
        tokens answered, with the seed, names the random number.
    row: which row of its job it is: rows with one seed draw different numbers.
    eos_ids: the tokens that min_tokens holds back, beside the stop tokens of `sampling`.
    ranked: above 0, nothing is drawn: that many best tokens are wanted (beam search).
    known: the token itself, where it was said before; how probable it is, is wanted.
    """

    sampling: SamplingParams
    ids: Sequence[int]
    start: int
    row: int = 0
    eos_ids: frozenset[int] = frozenset()
    ranked: int = 0
    known: int | None = None

    @property
    def position(self) -> int:
        """How many tokens were answered before."""
        return len(self.ids) - self.start


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """The token that was chosen.

    logprob: natural logarithm of its probability by the model itself, before any rule; top: the most probable tokens
    with theirs, best first, sampling.logprobs of them. Both only where sampling.logprobs is set.
    ranked: where it was asked for: the best tokens and their scores, best first (then id is the best one's); a score is
    the logarithm of the model's probability, changed by the rules for logits (penalties, bias, min_tokens).
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    ranked: tuple[tuple[int, float], ...] = ()

    def logprobs(self, tokenizer: Tokenizer) -> Logprobs | None:
        """Its probability in a client's terms; None where it was not asked for."""
        if self.logprob is None:
            return None
        top = tuple((tokenizer.piece(id), logprob) for id, logprob in self.top)
        return Logprobs(tokenizer.piece(self.id), self.logprob, top)


class BackendSession(Protocol):
    """An attention cache of one or more rows, which all have the same length. One step at a time; those of different
    sessions overlap."""

    async def step(
        self, ids: Sequence[Sequence[int]], draws: Sequence[Draw], parents: Sequence[int] | None = None
    ) -> list[Choice]:
        """Feed `ids` [rows, positions], and choose the token that follows in every row; it is not fed.

        At least one position, at most MAX_POSITIONS // rows of them (but always one). No draws: only feed, as with all
        pieces of a long prompt but the last. parents: the row whose cache each row goes on from, by default its own.

        Raises CorollaError: SWARM where the servers could not do it, CACHE_FULL where they have no room. After any
        error, cancellation included, the session is of no further use and must be closed.
        """

    async def total(self, ids: Sequence[int]) -> Sequence[float]:
        """Feed `ids` to its only row, and give the sum of their last hidden states (behind the final norm).

        At most MAX_POSITIONS. Raises as `step` does.
        """

    async def score(self, ids: Sequence[int], draws: Sequence[Draw]) -> list[Choice]:
        """Feed `ids` to its only row; for each of them, how probable the token behind it is, which its draw knows.

        At most MAX_POSITIONS. Raises as `step` does.
        """

    async def close(self) -> None:
        """Free the cache, on the servers too; never fails, may be called again."""


class Backend(Protocol):
    """One model, loaded."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Used by several threads at once."""

    def open(self, max_length: int, rows: int = 1) -> BackendSession:
        """A session with room for `max_length` ids in each of its rows; contacts no server before its first step."""

    def coverage(self) -> Coverage | None:
        """How many servers hold each block, as far as is known; None for no blocks. Any thread may ask; never waits."""

    async def stop(self) -> None:
        """End the processes and connections that belong to the model."""
