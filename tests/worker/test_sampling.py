"""Sampling: parity with transformers' processors, and draws that depend on seed and position alone."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from shared.sampling import SamplingParams
from worker.backend import Draw
from worker.sampling import choose, penalize, pick, uniform, warp

HISTORY = (3, 1, 4, 1, 5, 92, 65, 35)


def _logits(seed: int, rows: int = 1, vocabulary: int = 300, coarse: bool = False) -> torch.Tensor:
    logits = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 4
    return logits.round() if coarse else logits  # coarse logits have many ties


def _reference(logits: torch.Tensor, sampling: SamplingParams) -> torch.Tensor:
    """What transformers' generate makes of the logits before it draws."""
    processors = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature != 1:
        processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    processed: torch.Tensor = processors(torch.tensor([HISTORY]), logits)
    return processed[0]


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "penalty"),
    list(itertools.product([0.01, 0.6, 1.0, 7.5], [0, 1, 40, 1000], [1e-6, 0.1, 0.9, 1.0], [0.5, 1.0, 1.2])),
)
def test_processed_logits_equal_those_of_transformers(
    temperature: float, top_k: int, top_p: float, penalty: float, coarse: bool
) -> None:
    sampling = SamplingParams(True, temperature, top_k, top_p, penalty)
    for seed in range(5):
        row = _logits(seed, coarse=coarse)[0]
        penalized = penalize(row, HISTORY, penalty) if penalty != 1 else row
        assert torch.equal(warp(penalized, sampling), _reference(row[None].clone(), sampling))


def test_greedy_takes_the_best_of_the_penalized_logits_and_nothing_else() -> None:
    sampling = SamplingParams(do_sample=False, temperature=5.0, top_k=1, top_p=0.1, repetition_penalty=50.0)
    row = torch.zeros(100)
    row[92] = 9.0  # in the history: divided by the penalty
    row[7] = 1.0
    assert choose(row[None], [Draw(sampling, HISTORY, 0)]) == [7]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    logits = _logits(1, rows=8)
    draws = [Draw(SamplingParams(True, 2.0, seed=row), HISTORY, 5) for row in range(8)]
    alone = [choose(logits[row : row + 1], [draws[row]])[0] for row in range(8)]
    assert choose(logits, draws) == alone


def test_lower_precision_is_widened_first() -> None:
    logits = _logits(2).bfloat16()
    draw = Draw(SamplingParams(True, 3.0, top_p=0.95, seed=8), HISTORY, 3)
    assert choose(logits, [draw]) == choose(logits.float(), [draw])


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**31))
def test_a_random_number_follows_from_seed_and_position(seed: int, position: int) -> None:
    assert uniform(seed, position) == uniform(seed, position)
    assert 0 <= uniform(seed, position) < 1
    assert uniform(seed, position) != uniform(seed, position + 1)


def test_random_numbers_stay_the_same_in_later_versions() -> None:
    assert [uniform(0, 0), uniform(7, 1), uniform(2**63 - 1, 8000)] == [
        0.011546754286331451,
        0.08284268702737618,
        0.9579947681219845,
    ]


def _p_value(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """Of Pearson's chi-square test: small where counts do not follow the expected probabilities."""
    wanted = expected.double() / expected.double().sum() * counts.sum()
    statistic = ((counts - wanted) ** 2 / wanted).sum()
    return float(torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2, dtype=torch.double), statistic / 2))


def test_numbers_of_one_seed_and_of_one_position_are_uniform_and_unrelated() -> None:
    positions = torch.tensor([uniform(11, position) for position in range(5000)], dtype=torch.double)
    seeds = torch.tensor([uniform(seed, 11) for seed in range(5000)], dtype=torch.double)
    for numbers in (positions, seeds):
        assert _p_value(torch.histc(numbers, 50, 0, 1), torch.ones(50)) > 0.001
    relations = torch.corrcoef(torch.stack([positions[:-1], positions[1:], seeds[1:]]))
    assert float((relations - torch.eye(3)).abs().max()) < 0.05


def test_draws_follow_the_distribution() -> None:
    sampling = SamplingParams(do_sample=True, temperature=1.5, top_k=12, top_p=0.9, seed=1)
    row = _logits(4)[0]
    probabilities = warp(row, sampling).softmax(-1)
    draws = [choose(row[None], [Draw(sampling, HISTORY, position)])[0] for position in range(4000)]
    counts = torch.bincount(torch.tensor(draws), minlength=len(row))
    possible = probabilities > 0
    assert int(possible.sum()) > 3
    assert int(counts[~possible].sum()) == 0
    assert _p_value(counts[possible], probabilities[possible]) > 0.001


@settings(deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.5, 1 - 2.0**-52]))
def test_what_is_ruled_out_is_never_drawn(seed: int, number: float) -> None:
    row = warp(_logits(seed)[0], SamplingParams(True, top_k=3))
    assert row[pick(row, number)] > -torch.inf
