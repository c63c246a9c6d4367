"""The next tokens of rows with different rules, and draws that depend on seed, row and position alone."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.sampling import SamplingParams
from tests.worker.rules import EOS, PROMPT, SAID, VOCABULARY, logits, processed, samplings, warped
from worker.backend import Choice, Draw
from worker.sampling import Sampler, choose, pick, uniform

EXAMPLES = settings(deadline=None, max_examples=100, derandomize=True)


def _draw(sampling: SamplingParams, position: int = len(SAID), row: int = 0, ranked: int = 0) -> Draw:
    ids = PROMPT + (SAID * 1000)[:position]
    return Draw(sampling, ids, len(PROMPT), row, frozenset({EOS}), ranked)


def _choose(rows: torch.Tensor, draws: list[Draw]) -> list[Choice]:
    return choose(rows, Sampler(rows.shape[1]).admit(draws))


def _id(row: torch.Tensor, draw: Draw) -> int:
    (choice,) = _choose(row.unsqueeze(0), [draw])
    return choice.id


def test_nothing_is_kept_of_a_row_whose_answer_is_over() -> None:
    sampler = Sampler(VOCABULARY)
    draw = _draw(SamplingParams(repetition_penalty=1.2, presence_penalty=0.5, min_tokens=3))
    over = weakref.ref(draw)
    choose(torch.zeros(1, VOCABULARY), sampler.admit([draw]))
    del draw
    gc.collect()
    assert over() is None


def test_greedy_takes_the_best_of_the_penalized_logits_and_nothing_else() -> None:
    sampling = SamplingParams(do_sample=False, temperature=5.0, top_k=1, top_p=0.1, repetition_penalty=50.0)
    row = torch.zeros(VOCABULARY)
    row[92] = 9.0  # in the history: divided by the penalty
    row[77] = 1.0
    assert _id(row, _draw(sampling)) == 77


@EXAMPLES
@given(st.lists(samplings(st.booleans()), min_size=2, max_size=6), st.integers(0, 1000))
def test_rows_with_any_rules_get_together_what_they_get_alone(params: list[SamplingParams], seed: int) -> None:
    rows = logits(seed, rows=len(params))
    draws = [_draw(each, row=row) for row, each in enumerate(params)]
    alone = [_choose(rows[row : row + 1], [draw])[0] for row, draw in enumerate(draws)]
    assert _choose(rows, draws) == alone


@EXAMPLES
@given(samplings(st.just(True)), st.integers(0, 1000))
def test_a_draw_is_one_of_those_that_transformers_would_leave(sampling: SamplingParams, seed: int) -> None:
    row = logits(seed)
    assert warped(processed(row, sampling), sampling)[0, _id(row[0], _draw(sampling))] > -torch.inf


def test_lower_precision_is_widened_first() -> None:
    row = logits(2).bfloat16()
    draw = _draw(SamplingParams(True, 3.0, top_p=0.95, seed=8))
    assert _choose(row, [draw]) == _choose(row.float(), [draw])


def test_a_known_token_is_weighed_beside_rows_that_draw() -> None:
    rows = logits(3, rows=3)
    draws = [
        _draw(SamplingParams(True, seed=5)),
        Draw(SamplingParams(logprobs=1), (), 0, known=9),
        _draw(SamplingParams()),
    ]
    drawn, known, greedy = _choose(rows, draws)
    normal = rows[1].log_softmax(0)
    assert (drawn.id, greedy.id) == (_id(rows[0], draws[0]), _id(rows[2], draws[2]))
    assert known.id == 9
    assert known.logprob == pytest.approx(normal[9].item())
    ((best, logprob),) = known.top
    assert best == int(normal.argmax())
    assert logprob == pytest.approx(normal.max().item())


def test_logprobs_are_those_of_the_model_before_any_rule() -> None:
    rows = logits(5, rows=3)
    heavy = SamplingParams(logit_bias={17: 100.0}, logprobs=3)
    none, chosen, top = _choose(rows, [_draw(SamplingParams()), _draw(SamplingParams(logprobs=0)), _draw(heavy)])
    normal = rows.log_softmax(1)
    assert (none.logprob, none.top) == (None, ())
    assert (chosen.id, chosen.logprob, chosen.top) == (int(rows[1].argmax()), float(normal[1].max()), ())
    assert (top.id, top.logprob) == (17, float(normal[2, 17]))
    values, ids = normal[2].topk(3)
    assert top.top == tuple(zip(ids.tolist(), values.tolist(), strict=True))


def test_beam_search_gets_the_best_of_the_penalized_logarithms_and_draws_nothing() -> None:
    rows = logits(6, rows=2)
    sampling = SamplingParams(True, 9.0, repetition_penalty=1.5, seed=3)
    plain, ranked = _choose(rows, [_draw(SamplingParams()), _draw(sampling, ranked=5)])
    assert plain == Choice(int(rows[0].argmax()))
    values, ids = processed(rows[1:].log_softmax(1), sampling)[0].topk(5)
    assert ranked.ranked == tuple(zip(ids.tolist(), values.tolist(), strict=True))
    assert ranked.id == ids[0]


def test_rows_of_one_seed_draw_different_numbers() -> None:
    assert len({uniform(5, 7, row) for row in range(16)}) == 16
    assert uniform(5, 7, 0) == uniform(5, 7)


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
    row = logits(4)
    probabilities = warped(row, sampling)[0].softmax(-1)
    numbers = [uniform(1, position) for position in range(4000)]
    counts = torch.bincount(pick(warped(row, sampling).expand(4000, -1), numbers), minlength=VOCABULARY)
    possible = probabilities > 0
    assert int(possible.sum()) > 3
    assert int(counts[~possible].sum()) == 0
    assert _p_value(counts[possible], probabilities[possible]) > 0.001


@pytest.mark.parametrize("position", [0, 1, 500])
def test_a_draw_uses_the_number_of_its_place(position: int) -> None:
    sampling = SamplingParams(do_sample=True, seed=9)
    row = logits(4)
    assert _id(row[0], _draw(sampling, position, row=2)) == int(pick(row, [uniform(9, position, 2)]))


@EXAMPLES
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.5, 1 - 2.0**-52]))
def test_what_is_ruled_out_is_never_drawn(seed: int, number: float) -> None:
    rows = warped(logits(seed), SamplingParams(True, top_k=3))
    assert rows[0, int(pick(rows, [number]))] > -torch.inf
