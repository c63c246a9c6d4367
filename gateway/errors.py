"""JSON answers, and errors that no endpoint made: each API has its own words for them, told apart by the path."""

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.openai_words import Failure, failure_for

OPENAI = "/v1/"


def json_answer(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`content` as a JSON answer."""
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def failure_answer(failure: Failure) -> Response:
    """An error of the OpenAI API."""
    return json_answer(failure.content(), failure.status, failure.headers())


def plain_failure(path: str, status: int, name: str, text: str) -> Response:
    """The answer for an error of that HTTP status, in the words of the API that `path` belongs to."""
    if path.startswith(OPENAI):
        return failure_answer(failure_for(status, text))
    return json_answer({"ok": False, "traceback": f"{name}: {text}"}, status)


def http_failure(request: Request, error: Exception) -> Response:
    """The answer for Starlette's HTTPException: an unknown path, or a method that the path does not have."""
    assert isinstance(error, HTTPException)
    answer = plain_failure(request.url.path, error.status_code, "HTTPException", error.detail)
    answer.headers.update(error.headers or {})
    return answer
