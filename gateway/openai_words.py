"""Errors in the words of the OpenAI API: a status, and `{"error": {"message", "type", "param", "code"}}`.

The same four fields stand at the top level as well, with `"object": "error"`: older servers of this kind answered
so, and their clients look there.
"""

import dataclasses

import msgspec

from gateway.openai_objects import ErrorAnswer, ErrorFields
from gateway.waits import BRIEF_WAIT_S, busy_wait_s
from shared.errors import Code, CorollaError, InvalidField, TooLong
from shared.records import Busy


@dataclasses.dataclass(frozen=True)
class Failure:
    """One error for a client. retry_after_s: when another attempt may do; None where none will."""

    status: int
    type: str
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_s: int | None = None

    def content(self) -> ErrorAnswer:
        """The body."""
        fields = ErrorFields(self.message, self.type, self.param, self.code)
        return ErrorAnswer(fields, self.message, self.type, self.param, self.code)

    def headers(self) -> dict[str, str]:
        """What tells the official client whether to try again."""
        if self.retry_after_s is None:
            return {"x-should-retry": "false"}
        return {"retry-after": str(self.retry_after_s)}


_INVALID, _MODEL, _SERVER = "invalid_request_error", "model", "server_error"
# Code → status, type, param, code, whether another attempt may do.
_KINDS: dict[Code, tuple[int, str, str | None, str | None, bool]] = {
    Code.INVALID: (400, _INVALID, None, None, False),
    Code.TOO_LONG: (400, _INVALID, None, "context_length_exceeded", False),
    Code.MODEL_NOT_FOUND: (404, _INVALID, _MODEL, "model_not_found", False),
    Code.MODEL_NOT_PUBLIC: (403, "permission_error", _MODEL, "model_not_public", False),
    Code.SESSION_NOT_FOUND: (404, _INVALID, None, "not_found", False),
    Code.TENANT_BUSY: (429, "rate_limit_error", None, "rate_limit_exceeded", True),
    Code.RATE: (429, "rate_limit_error", None, "rate_limit_exceeded", True),
    Code.BUSY: (503, _SERVER, None, "server_is_overloaded", True),
    Code.TOO_MANY_SESSIONS: (503, _SERVER, None, "server_is_overloaded", True),
    Code.SWARM: (503, _SERVER, None, "swarm_unavailable", True),
    Code.CACHE_FULL: (503, _SERVER, None, "server_is_overloaded", True),
    Code.BROKER: (503, _SERVER, None, "broker_unavailable", True),
    Code.REVOKED: (401, _INVALID, None, "invalid_api_key", False),
    Code.DISCONTINUITY: (500, _SERVER, None, "discontinuity", True),
    Code.DEADLINE: (504, _SERVER, None, "deadline_exceeded", False),
    Code.POISON: (500, _SERVER, None, "given_up", False),
    Code.INTERNAL: (500, _SERVER, None, "internal_error", False),
}
_STATUS_KINDS = {
    401: (_INVALID, "invalid_api_key"),
    403: ("permission_error", "missing_scope"),
    404: (_INVALID, "not_found"),
    405: (_INVALID, "method_not_allowed"),
    503: (_SERVER, "restarting"),
}


def failure_of(error: CorollaError) -> Failure:
    """What a client is told of an error."""
    status, kind, param, code, retry = _KINDS[error.code]
    text = " ".join(error.message.split())
    if isinstance(error, InvalidField):
        param = error.field or None
    if isinstance(error, TooLong) and error.lengths:
        text = too_long(*error.lengths)
    wait_s = busy_wait_s(error) if isinstance(error, Busy) else BRIEF_WAIT_S
    return Failure(status, kind, text, param, code, wait_s if retry else None)


def too_long(prompt: int, answer: int, maximum: int) -> str:
    """OpenAI's own words, which some clients read the numbers from; all numbers are of tokens."""
    requested = f"{prompt + answer} tokens ({prompt} in the messages, {answer} in the completion)"
    return f"This model's maximum context length is {maximum} tokens. However, you requested {requested}."


def failure_for(status: int, text: str) -> Failure:
    """What a client is told by the HTTP status: of an unknown path, say, or of what nobody foresaw."""
    kind, code = _STATUS_KINDS.get(status, (_SERVER if status >= 500 else _INVALID, None))
    return Failure(status, kind, text, None, code, BRIEF_WAIT_S if status == 503 else None)


def failure_event(failure: Failure) -> bytes:
    """The event that tells of a failure in mid-stream."""
    return b"data: " + msgspec.json.encode(failure.content()) + b"\n\n"


def no_model(name: str) -> CorollaError:
    """The error for a model that the catalogue does not have."""
    return CorollaError(Code.MODEL_NOT_FOUND, f"The model `{name[:200]}` does not exist.")


def not_public(name: str) -> CorollaError:
    """The error for a model whose licence allows no public API."""
    return CorollaError(Code.MODEL_NOT_PUBLIC, f"The model `{name}` has no public API, because of its licence.")


def no_worker(name: str) -> CorollaError:
    """The error for a model that nobody serves at this moment."""
    return CorollaError(Code.SWARM, f"No worker serves the model `{name}` now, please try again later")
