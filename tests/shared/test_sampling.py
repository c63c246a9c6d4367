"""Bounds of the sampling parameters."""

from typing import Any

import pytest

from shared.errors import InvalidField
from shared.sampling import MAX_BIASES, MAX_STOP_TOKENS, BeamParams, SamplingParams


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", 100.1),
        ("temperature", float("nan")),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("typical_p", 0.0),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("frequency_penalty", float("nan")),
        ("min_tokens", -1),
        ("logprobs", 21),
        ("logit_bias", {1: 100.5}),
        ("logit_bias", {1: float("nan")}),
        ("logit_bias", {-1: 1.0}),
        ("stop_token_ids", (-1,)),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_a_value_out_of_bounds_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidField, match=f"`{field}` must be") as refused:
        SamplingParams(**{field: value})
    assert refused.value.field == field


def test_the_bounds_themselves_are_allowed() -> None:
    SamplingParams(temperature=100, repetition_penalty=100, top_k=0, top_p=1, seed=2**63 - 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("logit_bias", dict.fromkeys(range(MAX_BIASES + 1), 1.0)), ("stop_token_ids", tuple(range(MAX_STOP_TOKENS + 1)))],
)
def test_too_many_entries_name_their_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidField, match=f"`{field}` may have at most") as refused:
        SamplingParams(**{field: value})
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("field", "params"),
    [("num_beams", (1,)), ("num_beams", (17,)), ("length_penalty", (2, 10.5)), ("length_penalty", (2, float("nan")))],
)
def test_beam_search_has_bounds_too(field: str, params: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidField, match=f"`{field}` must be") as refused:
        BeamParams(*params)
    assert refused.value.field == field
