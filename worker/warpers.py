"""Which tokens may be drawn: temperature and limits, over rows of logits [rows, vocabulary] in float32.

The rules, their order and their numbers are those of transformers' generate (4.34: TemperatureLogitsWarper,
TopKLogitsWarper, TopPLogitsWarper, TypicalLogitsWarper), and where later versions have it, before the last, their
MinPLogitsWarper. Each row has parameters of its own; what a rule leaves out becomes -inf. All pure.
"""

from collections.abc import Callable, Sequence

import torch

from shared.sampling import SamplingParams

_HEAD = 1024  # so many of the best tokens nearly always hold the mass that top_p keeps
_DOUBT = 1e-4  # sums of probabilities this close to top_p are added in transformers' own order

Rule = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def warp(rows: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Apply all rules; each touches only the rows that use it."""
    rows = _apply(_heat, rows, [each.temperature for each in params], 1.0)
    rows = _apply(_top_k, rows, [each.top_k for each in params], 0)
    rows = _apply(_top_p, rows, [each.top_p for each in params], 1.0)
    rows = _apply(_min_p, rows, [each.min_p for each in params], 0.0)
    return _apply(_typical, rows, [each.typical_p for each in params], 1.0)


def _apply(rule: Rule, rows: torch.Tensor, values: Sequence[float], off: float) -> torch.Tensor:
    """The rule for the rows whose value is not `off`."""
    used = [row for row, value in enumerate(values) if value != off]
    if not used:
        return rows
    column = torch.tensor([values[row] for row in used], device=rows.device).unsqueeze(1)
    if len(used) == len(rows):
        return rule(rows, column)
    index = torch.tensor(used, device=rows.device)
    return rows.index_copy(0, index, rule(rows[index], column))


def _heat(rows: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    return rows / temperature


def _top_k(rows: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    count = count.clamp(max=rows.shape[1])
    best = rows.topk(int(count.max()), dim=1).values
    return rows.masked_fill(rows < best.gather(1, count - 1), -torch.inf)  # ties with the k-th stay


def _top_p(rows: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """Nearly always the best tokens tell where the limit is. Where that is not sure, all are sorted, as transformers
    does it: where more are needed, where a sum comes too close to the limit, and where equal tokens stand there."""
    count = min(_HEAD, rows.shape[1])
    best = rows.topk(count, dim=1).values
    share = (best - rows.logsumexp(1, keepdim=True)).exp()
    before = share.cumsum(1) - share  # the mass of the better ones
    kept = (before < mass).sum(1, keepdim=True)
    last = best.gather(1, kept - 1)
    following = best.gather(1, kept.clamp(max=count - 1))
    unsure = (kept == count) | (following == last) | ((before - mass).abs() < _DOUBT).any(1, keepdim=True)
    limited = rows.masked_fill(rows < last, -torch.inf)
    doubtful = unsure.squeeze(1).nonzero().squeeze(1)
    if len(doubtful):
        limited[doubtful] = _top_p_by_sorting(rows[doubtful], mass[doubtful])
    return limited


def _top_p_by_sorting(rows: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    ascending, order = rows.sort(dim=1)
    removed = ascending.softmax(1).cumsum(1) <= 1 - mass
    removed[:, -1] = False  # the most probable token always stays
    return rows.masked_fill(removed.scatter(1, order, removed), -torch.inf)


def _min_p(rows: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    share = rows.softmax(1)
    best, place = share.max(1, keepdim=True)
    return rows.masked_fill((share < part * best).scatter(1, place, False), -torch.inf)


def _typical(rows: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    surprise = -rows.log_softmax(1)
    entropy = (surprise * (-surprise).exp()).nansum(1, keepdim=True)
    distance, order = (surprise - entropy).abs().sort(dim=1)
    reached = rows.gather(1, order).softmax(1).cumsum(1)
    last = (reached < mass).sum(1, keepdim=True).clamp(max=rows.shape[1] - 1)
    removed = distance > distance.gather(1, last)
    removed[:, 0] = False
    return rows.masked_fill(removed.scatter(1, order, removed), -torch.inf)
