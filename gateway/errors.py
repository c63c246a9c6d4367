"""JSON answers, and errors that no endpoint made: each API has its own words for them, told apart by the path."""

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.openai_words import Failure, failure_for, failure_of
from gateway.petals_words import failure
from gateway.waits import BRIEF_WAIT_S, busy_wait_s
from shared.errors import Code, CorollaError
from shared.records import Busy

OPENAI = "/v1/"
# The Petals Chat API answers errors with status 200, but for those after which a client is to wait.
_WAITS = {Code.TENANT_BUSY: 429, Code.RATE: 429, Code.BUSY: 503, Code.TOO_MANY_SESSIONS: 503, Code.BROKER: 503}


def json_answer(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`content` as a JSON answer."""
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def failure_answer(failure: Failure) -> Response:
    """An error of the OpenAI API."""
    return json_answer(failure.content(), failure.status, failure.headers())


def petals_answer(error: CorollaError) -> Response:
    """An error of the Petals Chat API."""
    status = _WAITS.get(error.code, 200)
    wait_s = busy_wait_s(error) if isinstance(error, Busy) else BRIEF_WAIT_S
    return json_answer(failure(error), status, {"retry-after": str(wait_s)} if status != 200 else None)


def named_failure(path: str, error: CorollaError) -> Response:
    """The answer for an error that a layer met, in the words of the API that `path` belongs to."""
    return failure_answer(failure_of(error)) if path.startswith(OPENAI) else petals_answer(error)


def plain_failure(path: str, status: int, name: str, text: str) -> Response:
    """The answer for an error of that HTTP status, in the words of the API that `path` belongs to."""
    if path.startswith(OPENAI):
        return failure_answer(failure_for(status, text))
    headers = {"retry-after": str(BRIEF_WAIT_S)} if status == 503 else None
    return json_answer({"ok": False, "traceback": f"{name}: {text}"}, status, headers)


def http_failure(request: Request, error: Exception) -> Response:
    """The answer for Starlette's HTTPException: an unknown path, or a method that the path does not have."""
    assert isinstance(error, HTTPException)
    answer = plain_failure(request.url.path, error.status_code, "HTTPException", error.detail)
    answer.headers.update(error.headers or {})
    return answer
