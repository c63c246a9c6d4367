"""From logits to the next token: penalties, limits and the draw.

The rules and their order are those of transformers' generate (4.34): RepetitionPenaltyLogitsProcessor, then
TemperatureLogitsWarper, TopKLogitsWarper and TopPLogitsWarper. Numbers are float32.
Randomness has no state: a number follows from (seed, position) alone, so a worker continues what another one began.
"""

from collections.abc import Sequence

import numpy as np
import torch

from shared.sampling import SamplingParams
from worker.backend import Choice, Draw


def choose(logits: torch.Tensor, draws: Sequence[Draw]) -> list[Choice]:
    """The next token of every row of `logits` [rows, vocabulary]; a row's choice does not depend on the others."""
    return [Choice(_choose_one(row, draw)) for row, draw in zip(logits.float(), draws, strict=True)]


def _choose_one(row: torch.Tensor, draw: Draw) -> int:
    if draw.sampling.repetition_penalty != 1.0:
        row = penalize(row, draw.ids, draw.sampling.repetition_penalty)
    if not draw.sampling.do_sample:
        return int(row.argmax())
    return pick(warp(row, draw.sampling), uniform(draw.sampling.seed, draw.position))


def penalize(row: torch.Tensor, history: Sequence[int], penalty: float) -> torch.Tensor:
    """Divide positive logits of the ids in `history` by `penalty`, multiply negative ones (arXiv 1909.05858)."""
    seen = torch.tensor(history, dtype=torch.long, device=row.device)
    score = row[seen]
    return row.scatter(0, seen, torch.where(score < 0, score * penalty, score / penalty))


def warp(row: torch.Tensor, sampling: SamplingParams) -> torch.Tensor:
    """Apply temperature, then top_k, then top_p; what they rule out becomes -inf."""
    if sampling.temperature != 1.0:
        row = row / sampling.temperature
    if sampling.top_k:
        weakest = torch.topk(row, min(sampling.top_k, len(row))).values[-1]
        row = row.masked_fill(row < weakest, -torch.inf)  # ties with the k-th stay
    if sampling.top_p < 1.0:
        ascending, order = torch.sort(row)
        removed = ascending.softmax(-1).cumsum(-1) <= 1 - sampling.top_p
        removed[-1] = False  # the most probable token always stays
        row = row.masked_fill(torch.zeros_like(removed).scatter(0, order, removed), -torch.inf)
    return row


def uniform(seed: int, position: int) -> float:
    """The random number in [0, 1) of this position: the first word of Philox (Salmon et al. 2011), block `position`.

    52 of its bits: one bit less than a float has, so that its product with a total, rounded, stays below that total.
    """
    return float(int(np.random.Philox(key=seed, counter=position).random_raw()) >> 12) * 2.0**-52


def pick(row: torch.Tensor, number: float) -> int:
    """The token at which the cumulative probability first exceeds `number` of the whole; never one that is -inf."""
    cumulative = row.softmax(-1).double().cumsum(-1)
    return int(torch.searchsorted(cumulative, cumulative[-1:] * number, right=True))
