"""Which files are batches, and how their results are counted."""

import json

import msgspec
import pytest

from gateway.batch_lines import Response, check, count, read_line, read_result, result
from gateway.batch_records import MAX_LINES
from gateway.openai_objects import Counts

URL = "/v1/completions"


def raw(custom_id: object = "a", **fields: object) -> bytes:
    return json.dumps(
        {"custom_id": custom_id, "method": "POST", "url": URL, "body": {"prompt": "x"}, **fields}
    ).encode()


def test_sound_lines() -> None:
    assert check([raw("a"), raw("b", body={"stream": False}), raw("c", body={"stream": None})], URL, 1000) == (3, [])


@pytest.mark.parametrize(
    ("line", "code", "param", "message"),
    [
        (b"{", "invalid_json_line", None, "The line is not a JSON object in UTF-8"),
        (b"\xff", "invalid_json_line", None, "The line is not a JSON object in UTF-8"),
        (b"[]", "invalid_request", None, "Expected object, got array"),
        (raw(7), "invalid_request", None, "Expected str, got int - at $.custom_id"),
        (raw(method="GET"), "invalid_request", None, "Invalid enum value 'GET' - at $.method"),
        (raw(body=[]), "invalid_request", None, "Expected object, got array - at $.body"),
        (raw(url="/v1/x"), "mismatched_endpoint", "url", "url must be /v1/completions, as the batch's endpoint is"),
        (raw(body={"stream": True}), "invalid_request", "body.stream", "stream must not be true in a batch"),
        (raw("a" * 600), "line_too_long", None, "The line is too long: at most 500 bytes are allowed"),
    ],
)
def test_a_line_that_is_no_request(line: bytes, code: str, param: str | None, message: str) -> None:
    (error,) = check([raw(), line], URL, 500)[1]
    assert (error.line, error.code, error.param, error.message) == (2, code, param, message)


def test_bounds_of_a_file() -> None:
    assert [error.code for error in check([], URL, 500)[1]] == ["empty_file"]
    assert [error.code for error in check((raw(str(i)) for i in range(MAX_LINES + 1)), URL, 500)[1]] == [
        "too_many_lines"
    ]
    assert len(check([b"{"] * 1000, URL, 500)[1]) == 100


def test_results_are_counted_by_how_they_came_out() -> None:
    line = read_line(raw())
    results = [
        result("b", line, Response(200, "r", msgspec.Raw(b"{}")), None),
        result("b", line, Response(400, "r", msgspec.Raw(b"{}")), None),
        result("b", line, None, "batch_expired"),
    ]
    assert count(results, 5) == Counts(5, 1, 2)
    assert read_result(results[0]).id == read_result(results[2]).id
