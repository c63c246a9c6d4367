"""Beam search over the best tokens of each row. Pure.

The rules are those of transformers' generate (4.34: GenerationMixin.beam_search, BeamSearchScorer, BeamHypotheses), and
so are the numbers: sums are rounded to float32, scores of complete hypotheses are not. One thing differs: a complete
hypothesis ends with the very token that ended it; there it ends with the first one of all that may.
"""

import dataclasses
import struct
from collections.abc import Sequence

from shared.sampling import BeamParams
from worker.backend import Choice

_NOT_YET = -1e9  # sum of all beams but the first before the first token, so that they do not all say the same
_SINGLE = struct.Struct("<f")


@dataclasses.dataclass(frozen=True, slots=True)
class Beam:
    """A hypothesis that may be gone on with.

    ids: all so far, prompt included. chosen: the tokens after the prompt, each with its score as logprob. total: the
    sum of their scores.
    """

    ids: list[int]
    chosen: tuple[Choice, ...]
    total: float

    def grown(self, token: Choice, total: float) -> "Beam":
        """With one token more."""
        return Beam([*self.ids, token.id], (*self.chosen, token), total)


class BeamSearch:
    """Keeps the best hypotheses after the prompt `before`.

    max_length: of prompt and answer together. ends: the tokens that complete a hypothesis.
    beams: those to go on with, one for each row. parents: the row that each one goes on from; None before the first
    step. over: whether the search is at its end.
    """

    def __init__(self, params: BeamParams, before: Sequence[int], max_length: int, ends: frozenset[int]) -> None:
        totals = [0.0] + [_NOT_YET] * (params.beams - 1)
        self.beams = [Beam(list(before), (), total) for total in totals]
        self.parents: list[int] | None = None
        self.over = False
        self._params = params
        self._max_length = max_length
        self._ends = ends
        self._complete: list[tuple[float, tuple[Choice, ...]]] = []  # (score, tokens), in the order of their coming
        self._worst = 1e9

    @property
    def ranked(self) -> int:
        """How many of the best tokens of each row are needed: so many that those which end nothing fill all beams."""
        return self._params.beams + len(self._ends)

    def push(self, chosen: Sequence[Choice]) -> None:
        """Take the best tokens of every row."""
        length = len(self.beams[0].ids) + 1
        ranked = sorted(
            (-_single(beam.total + score), row, id, score)
            for row, (beam, choice) in enumerate(zip(self.beams, chosen, strict=True))
            for id, score in choice.ranked
        )
        beams: list[Beam] = []
        parents: list[int] = []
        for rank, (negative, row, id, score) in enumerate(ranked):
            token = Choice(id, score, chosen[row].top)
            if id not in self._ends:
                beams.append(self.beams[row].grown(token, -negative))
                parents.append(row)
                if len(beams) == self._params.beams:
                    break
            elif rank < self._params.beams:
                self._add((*self.beams[row].chosen, token), -negative, length - 1)
        self.beams, self.parents = beams, parents
        if self._is_done(-ranked[0][0], length):
            self.over = True
        elif length >= self._max_length:
            self.over = True
            for beam in beams:
                self._add(beam.chosen, beam.total, length)

    def best(self, count: int) -> list[tuple[Choice, ...]]:
        """The tokens of the best hypotheses, best first; `count` must not be more than there are beams."""
        ascending = sorted(self._complete, key=lambda hypothesis: hypothesis[0])
        return [tokens for _, tokens in reversed(ascending[-count:])]

    def _add(self, tokens: tuple[Choice, ...], total: float, length: int) -> None:
        """Keep a complete hypothesis, unless there are enough better ones. length: what counts for its score, prompt
        included, the token that ends it not."""
        score = total / length**self._params.length_penalty
        if len(self._complete) == self._params.beams and score <= self._worst:
            return
        self._complete.append((score, tokens))
        if len(self._complete) > self._params.beams:
            place = min(range(len(self._complete)), key=lambda index: self._complete[index][0])
            del self._complete[place]
        self._worst = min(score for score, _ in self._complete)

    def _is_done(self, best: float, length: int) -> bool:
        """Whether no hypothesis that goes on is thought to become better than the worst complete one.

        best: the greatest sum at this length.
        """
        if len(self._complete) < self._params.beams:
            return False
        if self._params.early_stopping is True:
            return True
        penalty = self._params.length_penalty
        if self._params.early_stopping is None and penalty > 0:
            length = self._max_length
        attainable: float = best / length**penalty
        return self._worst >= attainable


def _single(number: float) -> float:
    """Rounded to float32."""
    rounded: float = _SINGLE.unpack(_SINGLE.pack(number))[0]
    return rounded
