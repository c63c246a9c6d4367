"""Rules that change single logits of a row: bias, penalties for what was said, and endings that come too early.

In transformers' order (4.34: SequenceBiasLogitsProcessor, RepetitionPenaltyLogitsProcessor,
MinNewTokensLengthLogitsProcessor). The presence and frequency penalties, which are OpenAI's, follow the repetition
penalty.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from shared.errors import InvalidField
from shared.sampling import SamplingParams
from worker.backend import Draw

Ids = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float32]
Entry = tuple[int, Ids, Numbers]  # a row, some ids, and a number for each of them


class Tally:
    """How often each id occurs in a list that grows, from `start` on. Reads only what is new in it."""

    def __init__(self, ids: Sequence[int], start: int) -> None:
        self._list = ids
        self._read = start
        self._places: dict[int, int] = {}
        self._ids = np.empty(64, np.int64)
        self._counts = np.zeros(64, np.float32)

    def count(self) -> tuple[Ids, Numbers]:
        """The ids, each once, and their counts."""
        for id in self._list[self._read :]:
            place = self._places.setdefault(id, len(self._places))
            if place == len(self._ids):
                self._ids = np.concatenate([self._ids, self._ids])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._ids[place] = id
            self._counts[place] += 1
        self._read = len(self._list)
        known = len(self._places)
        return self._ids[:known], self._counts[:known]


class Penalties:
    """What one row's draws need between them: made once for an answer, and does not hold its draw. Raises InvalidField
    for a bias beyond the vocabulary."""

    def __init__(self, draw: Draw, vocabulary: int) -> None:
        sampling = draw.sampling
        self.sampling = sampling
        self._ids, self._start = draw.ids, draw.start
        self.bias = sampling.logit_bias
        if self.bias and max(self.bias) >= vocabulary:
            text = f"`logit_bias` may name tokens from 0 to {vocabulary - 1}, but names {max(self.bias)}"
            raise InvalidField("logit_bias", text)
        self.bias_ids = np.fromiter(self.bias, np.int64)
        self.bias_values = np.fromiter(self.bias.values(), np.float32)
        self.seen = Tally(draw.ids, 0) if sampling.repetition_penalty != 1 else None
        self.said = Tally(draw.ids, draw.start) if sampling.presence_penalty or sampling.frequency_penalty else None
        ends = draw.eos_ids.union(sampling.stop_token_ids) if sampling.min_tokens else ()
        self.ends = np.fromiter((id for id in ends if id < vocabulary), np.int64)

    @property
    def any(self) -> bool:
        """Whether there is a rule for the next token."""
        return bool(self.bias or self.seen or self.said) or self.too_early

    @property
    def too_early(self) -> bool:
        """Whether the answer must not end with the next token."""
        return len(self.ends) > 0 and len(self._ids) - self._start < self.sampling.min_tokens


def penalize(rows: torch.Tensor, penalties: Sequence[Penalties]) -> torch.Tensor:
    """Apply all rules to rows [rows, vocabulary] in float32, which are changed in place."""
    used = [(row, each) for row, each in enumerate(penalties) if each.any]
    _add(rows, [(row, each.bias_ids, each.bias_values) for row, each in used if each.bias])
    _repel(rows, [_repetition(row, each.seen, each.sampling) for row, each in used if each.seen])
    _add(rows, [_presence(row, each.said, each.sampling) for row, each in used if each.said])
    _add(rows, [(row, each.ends, np.full(len(each.ends), -np.inf, np.float32)) for row, each in used if each.too_early])
    return rows


def _repetition(row: int, seen: Tally, sampling: SamplingParams) -> Entry:
    ids, counts = seen.count()
    return row, ids, np.full_like(counts, sampling.repetition_penalty)


def _presence(row: int, said: Tally, sampling: SamplingParams) -> Entry:
    ids, counts = said.count()
    return row, ids, -(sampling.frequency_penalty * counts + sampling.presence_penalty)


def _flat(entries: Sequence[Entry], rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row, id and number of every entry."""
    places = np.repeat([row for row, _, _ in entries], [len(ids) for _, ids, _ in entries])
    ids = np.concatenate([ids for _, ids, _ in entries])
    values = np.concatenate([values for _, _, values in entries])
    place, id, value = (torch.from_numpy(each).to(rows.device) for each in (places, ids, values))
    return place, id, value


def _add(rows: torch.Tensor, entries: Sequence[Entry]) -> None:
    if entries:
        place, id, value = _flat(entries, rows)
        rows[place, id] += value  # each id once in a row


def _repel(rows: torch.Tensor, entries: Sequence[Entry]) -> None:
    """Divide positive logits, multiply negative ones (arXiv 1909.05858)."""
    if entries:
        place, id, value = _flat(entries, rows)
        score = rows[place, id]
        rows[place, id] = torch.where(score < 0, score * value, score / value)
