"""Errors of the OpenAI API: statuses, shapes, and whether to try again."""

import msgspec
import pytest

from gateway.openai_words import failure_event, failure_for, failure_of, no_model
from shared.errors import Code, CorollaError, InvalidField, TooLong
from shared.records import Busy

STATUSES = {
    Code.INVALID: 400,
    Code.TOO_LONG: 400,
    Code.REVOKED: 401,
    Code.MODEL_NOT_PUBLIC: 403,
    Code.MODEL_NOT_FOUND: 404,
    Code.SESSION_NOT_FOUND: 404,
    Code.TENANT_BUSY: 429,
    Code.RATE: 429,
    Code.INTERNAL: 500,
    Code.POISON: 500,
    Code.DISCONTINUITY: 500,
    Code.BUSY: 503,
    Code.BROKER: 503,
    Code.SWARM: 503,
    Code.CACHE_FULL: 503,
    Code.TOO_MANY_SESSIONS: 503,
    Code.DEADLINE: 504,
}
HOPELESS = {400, 401, 403, 404, 504}


@pytest.mark.parametrize("code", Code)
def test_every_code_has_its_status_and_says_whether_to_try_again(code: Code) -> None:
    failure = failure_of(CorollaError(code, "told\nso"))
    assert failure.status == STATUSES[code]
    assert failure.message == "told so"
    if failure.status in HOPELESS or code in (Code.INTERNAL, Code.POISON):
        assert failure.headers() == {"x-should-retry": "false"}
    else:
        assert failure.headers() == {"retry-after": "2"}


def test_all_four_keys_stand_inside_and_at_the_top() -> None:
    four = {
        "message": "The model `x` does not exist.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    assert msgspec.to_builtins(failure_of(no_model("x")).content()) == {"error": four, "object": "error", **four}


def test_a_wrong_field_is_named() -> None:
    failure = failure_of(InvalidField("top_p", "`top_p` is wrong"))
    assert (failure.status, failure.param, failure.code) == (400, "top_p", None)


def test_what_is_too_long_is_told_in_numbers() -> None:
    failure = failure_of(TooLong("Maximum length exceeded", (1000, 600, 1500)))
    assert failure.code == "context_length_exceeded"
    assert failure.message == (
        "This model's maximum context length is 1500 tokens. However, you requested 1600 tokens "
        "(1000 in the messages, 600 in the completion)."
    )


@pytest.mark.parametrize(("depth", "wait_s"), [(0, "1"), (7, "1"), (80, "11"), (10_000, "60")])
def test_a_longer_line_means_a_longer_wait(depth: int, wait_s: str) -> None:
    assert failure_of(Busy(Code.TENANT_BUSY, depth)).headers() == {"retry-after": wait_s}


def test_by_status() -> None:
    assert failure_for(404, "Not Found").content().code == "not_found"
    assert failure_for(500, "Internal").headers() == {"x-should-retry": "false"}
    assert failure_for(503, "Restart").headers() == {"retry-after": "2"}


def test_an_event_is_one_line() -> None:
    event = failure_event(failure_of(CorollaError(Code.SWARM, "a\nb")))
    assert event.startswith(b'data: {"error":{"message":"a b","type":"server_error"')
    assert (event.count(b"\n"), event[-2:]) == (2, b"\n\n")
