"""Fields of the Petals Chat API."""

import contextlib
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.petals_fields import Call, flag, http_request, identifier, parse_call, socket_request, text, whole
from shared.errors import InvalidField
from shared.messages import JobRequest
from shared.sampling import SamplingParams

GREEDY = SamplingParams(seed=5)


def parse(**fields: Any) -> Call:
    return parse_call(fields, 100, lambda: 5)


def test_absent_and_null_fields() -> None:
    absent = Call(None, GREEDY, None, None, None, ())
    names = ("inputs", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "max_length")
    more = ("max_new_tokens", "stop_sequence", "extra_stop_sequences", "seed")
    assert parse() == absent
    assert parse(**dict.fromkeys(names + more)) == absent


@pytest.mark.parametrize("value", [20, 20.0, "20", "20.0", "+20"])
def test_whole_numbers(value: object) -> None:
    assert whole({"n": value}, "n") == 20


@pytest.mark.parametrize(
    "value", ["", " ", "4.5", 4.5, "1e3", "1_000", "٣", "0x10", "nan", math.inf, 2**63, True, [], {}, "9" * 5000]
)
def test_what_is_no_whole_number(value: object) -> None:
    with pytest.raises(InvalidField) as caught:
        whole({"n": value}, "n")
    assert caught.value.field == "n"
    assert caught.value.message.startswith("`n` must be a whole number, but is ")
    assert len(caught.value.message) < 100


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, False), (1, True), ("0", False), ("1", True), (True, True), (False, False), ("true", True), ("False", False)],
)
def test_flags(value: object, expected: bool) -> None:
    assert flag({"f": value}, "f") is expected


@pytest.mark.parametrize("value", ["", "yes", 2, -1, 0.5, [], "2"])
def test_what_is_no_flag(value: object) -> None:
    with pytest.raises(InvalidField):
        flag({"f": value}, "f")


@pytest.mark.parametrize("value", ["", "AB" * 16, "ab" * 15, "ab" * 16 + "\n", "g" * 32])
def test_what_is_no_identifier(value: str) -> None:
    with pytest.raises(InvalidField):
        identifier({"id": value}, "id")


def test_strings_are_strings() -> None:
    assert text({"inputs": " hi"}, "inputs") == " hi"
    with pytest.raises(InvalidField, match="`inputs` must be a string, but is '3'"):
        text({"inputs": 3}, "inputs")
    with pytest.raises(InvalidField, match="`inputs` must be valid Unicode"):
        text({"inputs": "\ud800"}, "inputs")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", ""),
        ("temperature", "warm"),
        ("temperature", "inf"),
        ("temperature", True),
        ("top_p", []),
        ("max_new_tokens", 0),
        ("max_new_tokens", -1),
        ("max_length", 0),
        ("seed", -1),
        ("inputs", "x" * 101),
        ("stop_sequence", 3),
        ("stop_sequence", "x" * 1001),
        ("extra_stop_sequences", "###"),
        ("extra_stop_sequences", [3]),
        ("extra_stop_sequences", [None]),
        ("extra_stop_sequences", ["x"] * 17),
    ],
)
def test_wrong_fields_are_named(field: str, value: object) -> None:
    with pytest.raises(InvalidField) as caught:
        parse(**{field: value})
    assert caught.value.field == field


def test_bounds_of_sampling_hold_where_there_is_sampling() -> None:
    with pytest.raises(InvalidField):
        parse(do_sample=1, temperature=0)
    assert parse(do_sample=0, temperature=0, top_k=-1, top_p=7).sampling == GREEDY


def test_no_defaults_of_a_model_or_of_transformers_apply() -> None:
    assert parse(do_sample="1").sampling == SamplingParams(do_sample=True, seed=5)
    assert parse(repetition_penalty="1.2").sampling == SamplingParams(repetition_penalty=1.2, seed=5)
    assert parse(seed=0).sampling == SamplingParams(seed=0)


def test_an_empty_prompt_adds_nothing() -> None:
    assert parse(inputs="").inputs is None


def test_http_takes_exactly_one_length() -> None:
    assert http_request(parse(max_length=9), "m") == JobRequest("m", GREEDY, max_length=9)
    assert http_request(parse(max_new_tokens=9), "m") == JobRequest("m", GREEDY, max_new_tokens=9)
    for fields in ({}, {"max_length": 1, "max_new_tokens": 1}):
        with pytest.raises(InvalidField, match="You should set"):
            http_request(parse(**fields), "m")


def request(**fields: Any) -> JobRequest:
    return JobRequest("m", GREEDY, **fields)


@pytest.mark.parametrize(
    ("fields", "expected", "chunk"),
    [
        ({"max_new_tokens": 3}, request(max_new_tokens=3), None),
        ({"max_length": 30}, request(max_length=30), None),
        ({"max_new_tokens": 3, "max_length": 30}, request(max_new_tokens=3), None),
        ({}, request(max_length=20), None),
        ({"max_new_tokens": 3, "stop_sequence": ""}, request(max_new_tokens=3), None),
        ({"max_new_tokens": 3, "extra_stop_sequences": ["#"]}, request(max_new_tokens=3), None),
        ({"max_new_tokens": 3, "stop_sequence": "#"}, request(stop=("#",), partial=True), 3),
        ({"max_new_tokens": 1, "max_length": 9, "stop_sequence": "#"}, request(stop=("#",), partial=True), 1),
        ({"max_length": 9, "stop_sequence": "#"}, request(max_length=9, stop=("#",), partial=True), None),
        ({"stop_sequence": "#"}, request(max_length=20, stop=("#",), partial=True), None),
        (
            {"max_new_tokens": 1, "stop_sequence": "#", "extra_stop_sequences": ["</s>", "", "\nUser:"]},
            request(stop=("#",), extra_stop=("</s>", "\nUser:"), partial=True),
            1,
        ),
    ],
)
def test_lengths_and_stops_of_a_socket(fields: dict[str, Any], expected: JobRequest, chunk: int | None) -> None:
    assert socket_request(parse(**fields), "m") == (expected, chunk)


VALUES: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()) | st.just({})
)
NAMES = st.sampled_from([*Call.__dataclass_fields__, "do_sample", "temperature", "top_k", "top_p", "seed"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, VALUES))
def test_whatever_comes_is_parsed_or_refused(fields: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidField):
        assert socket_request(parse(**fields), "m")[0].model == "m"
