"""From logits to the next tokens, for rows with different rules together.

Randomness has no state: a number follows from (seed, row, position) alone, so a worker continues what another began.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch

from worker.backend import Choice, Draw
from worker.penalties import Penalties, penalize
from worker.warpers import warp

Ranks = list[tuple[tuple[int, float], ...]]
Row = tuple[Draw, Penalties]


class Sampler:
    """Chooses tokens of a vocabulary of so many, and keeps what the rules of a row need from token to token."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        # As long as a row's tokens are chosen: what is kept here must not hold its draw.
        self._penalties: WeakKeyDictionary[Draw, Penalties] = WeakKeyDictionary()

    def admit(self, draws: Sequence[Draw]) -> list[Row]:
        """The rows of these draws. Raises InvalidField for a rule that this vocabulary cannot have."""
        return [(draw, self._penalties_of(draw)) for draw in draws]

    def _penalties_of(self, draw: Draw) -> Penalties:
        penalties = self._penalties.get(draw)
        if penalties is None:
            penalties = self._penalties[draw] = Penalties(draw, self._vocabulary)
        return penalties


def choose(logits: torch.Tensor, rows: Sequence[Row]) -> list[Choice]:
    """The next token of every row of `logits` [rows, vocabulary], in any format, on any device; a row's choice does not
    depend on the others. What is needed of the logits is brought to the CPU for all rows at once."""
    draws = [draw for draw, _ in rows]
    plain = logits.float()
    normal = plain.log_softmax(1) if any(_wants_logarithms(draw) for draw in draws) else plain
    scores = _penalized(plain, normal, rows)
    chosen = _choose(scores, draws)
    ranked = _best(scores, [draw.ranked for draw in draws])
    tops = _best(normal, [draw.sampling.logprobs or 0 for draw in draws])
    ids: list[int] = chosen.tolist()
    if normal is plain:
        return [Choice(id) for id in ids]
    logprobs: list[float] = normal.gather(1, chosen.unsqueeze(1)).squeeze(1).tolist()
    return [
        Choice(ranks[0][0] if ranks else id, None if draw.sampling.logprobs is None else logprob, top, ranks)
        for id, draw, logprob, top, ranks in zip(ids, draws, logprobs, tops, ranked, strict=True)
    ]


def _wants_logarithms(draw: Draw) -> bool:
    return draw.ranked > 0 or draw.sampling.logprobs is not None


def _penalized(plain: torch.Tensor, normal: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """Scores that the rules have changed: of logits, or of their logarithms where beam search wants them."""
    scores = plain
    beams = [place for place, (draw, _) in enumerate(rows) if draw.ranked]
    if beams:
        index = torch.tensor(beams, device=plain.device)
        scores = plain.index_copy(0, index, normal[index])
    changed = {place: penalties for place, (_, penalties) in enumerate(rows) if penalties.any}
    if not changed:
        return scores
    index = torch.tensor(list(changed), device=plain.device)
    return scores.index_copy(0, index, penalize(scores[index], list(changed.values())))


def _choose(scores: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """The id for each row: [rows]."""
    chosen = scores.argmax(1)
    known = {place: draw.known for place, draw in enumerate(draws) if draw.known is not None}
    if known:
        places, ids = (torch.tensor(list(each), device=scores.device) for each in (known, known.values()))
        chosen = chosen.index_copy(0, places, ids)
    drawn = [place for place, draw in enumerate(draws) if draw.sampling.do_sample and not draw.ranked]
    if not drawn:
        return chosen
    index = torch.tensor(drawn, device=scores.device)
    numbers = [uniform(draws[place].sampling.seed, draws[place].position, draws[place].row) for place in drawn]
    warped = warp(scores[index], [draws[place].sampling for place in drawn])
    return chosen.index_copy(0, index, pick(warped, numbers))


def _best(scores: torch.Tensor, counts: Sequence[int]) -> Ranks:
    """For each row its best ids and their scores, as many as it wants."""
    most = min(max(counts), scores.shape[1])
    if not most:
        return [()] * len(counts)
    values, ids = scores.topk(most, dim=1)
    rows = zip(ids.tolist(), values.tolist(), counts, strict=True)
    return [tuple(zip(ids[:count], values[:count], strict=True)) for ids, values, count in rows]


def uniform(seed: int, position: int, row: int = 0) -> float:
    """The random number in [0, 1) of this place: the first word of Philox (Salmon et al. 2011), key (seed, row), block
    `position`.

    52 of its bits: one bit less than a float has, so that its product with a total, rounded, stays below that total.
    """
    return float(int(np.random.Philox(key=seed + (row << 64), counter=position).random_raw()) >> 12) * 2.0**-52


def pick(rows: torch.Tensor, numbers: Sequence[float]) -> torch.Tensor:
    """The token of each row at which the cumulative probability first exceeds its number's part of the whole; never one
    that is -inf. [rows]"""
    cumulative = rows.softmax(1).double().cumsum(1)
    aims = cumulative[:, -1:] * torch.tensor(numbers, dtype=torch.float64, device=rows.device).unsqueeze(1)
    return torch.searchsorted(cumulative, aims, right=True).squeeze(1)
