"""JSON answers, and what unknown paths and methods are answered with."""

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response


def json_answer(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`content` as a JSON answer."""
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def http_failure(_: Request, error: Exception) -> Response:
    """The answer for Starlette's HTTPException: an unknown path, or a method that the path does not have."""
    assert isinstance(error, HTTPException)
    content = {"ok": False, "traceback": f"HTTPException: {error.detail}"}
    return json_answer(content, error.status_code, dict(error.headers or {}))
