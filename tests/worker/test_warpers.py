"""Temperature and limits, to the bit as transformers has them."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.sampling import SamplingParams
from tests.worker.rules import logits, samplings, warped
from worker import warpers
from worker.warpers import warp

COARSE = pytest.mark.parametrize("coarse", [False, True])


@COARSE
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    list(itertools.product([0.01, 0.6, 1.0, 7.5], [0, 1, 40, 1000], [1e-6, 0.1, 0.9, 1.0])),
)
def test_temperature_top_k_and_top_p_equal_those_of_transformers(
    temperature: float, top_k: int, top_p: float, coarse: bool
) -> None:
    sampling = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
    rows = logits(7, rows=5, coarse=coarse)
    assert torch.equal(warp(rows, [sampling] * 5), warped(rows, sampling))


@COARSE
@pytest.mark.parametrize("field", ["min_p", "typical_p"])
@pytest.mark.parametrize("value", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_min_p_and_typical_p_equal_those_of_transformers(field: str, value: float, coarse: bool) -> None:
    params: dict[str, Any] = {field: value}
    sampling = SamplingParams(**params)
    rows = logits(8, rows=5, coarse=coarse)
    assert torch.equal(warp(rows, [sampling] * 5), warped(rows, sampling))


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.lists(samplings(st.just(True)), min_size=1, max_size=5), st.integers(0, 1000), st.booleans())
def test_any_rules_for_any_rows_together_equal_those_of_transformers(
    params: list[SamplingParams], seed: int, coarse: bool
) -> None:
    rows = logits(seed, rows=len(params), coarse=coarse)
    alone = torch.cat([warped(row.unsqueeze(0), each) for row, each in zip(rows, params, strict=True)])
    assert torch.equal(warp(rows, params), alone)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("spread", [0.2, 1.0, 3.0])
def test_a_large_vocabulary_needs_no_sorting_to_be_exact(
    top_p: float, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = SamplingParams(top_p=top_p)
    rows = logits(3, rows=4, vocabulary=32_000) / 4 * spread
    assert torch.equal(warp(rows, [sampling] * 4), warped(rows, sampling))
    if spread == 3.0 and top_p == 0.3:
        monkeypatch.setattr(warpers, "_top_p_by_sorting", None)
        assert torch.equal(warp(rows, [sampling] * 4), warped(rows, sampling))


def test_rows_without_rules_are_left_as_they_are() -> None:
    rows = logits(1, rows=3)
    assert warp(rows, [SamplingParams()] * 3) is rows
    some = warp(rows, [SamplingParams(), SamplingParams(top_k=2), SamplingParams()])
    assert torch.equal(some[0], rows[0])
    assert torch.equal(some[2], rows[2])
    assert int((some[1] > -torch.inf).sum()) == 2
