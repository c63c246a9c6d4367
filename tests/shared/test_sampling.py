"""Bounds of the sampling parameters."""

from typing import Any

import pytest

from shared.errors import InvalidField
from shared.sampling import SamplingParams


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
