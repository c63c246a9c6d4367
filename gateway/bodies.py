"""A request's fields: the query string and the body (form or JSON), merged, the query winning."""

import asyncio
from collections.abc import AsyncGenerator
from urllib.parse import parse_qsl

import msgspec
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from shared.errors import Code, CorollaError

MAX_FIELDS = 100
# A request must have come within this time of the connection, or of its first byte where others came before it on the
# same connection; one with a file has time by its size: see openai_files.py.
REQUEST_TIMEOUT_S = 14.0
# Where the server keeps the time in an ASGI scope by which that is: its loop's own.
DUE = "corolla.due"
# A client that is still sending may not hear an answer before it is done. So a body that is too large is read on and
# thrown away, up to so many times the limit.
MAX_WASTE = 16


class BodyRefused(CorollaError):
    """A body that was not read to its end, so that the connection is of no further use. status: what HTTP calls it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(Code.INVALID, message)
        self.status = status


async def read_fields(request: Request, max_bytes: int) -> dict[str, object]:
    """The fields of a request. Raises CorollaError(INVALID), and ClientDisconnect."""
    fields: dict[str, object] = {}
    if request.method == "POST":
        fields = await _parse(request, await read_body(request, max_bytes))
    return fields | _pairs(request.scope["query_string"])


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body as it is. Raises BodyRefused, and ClientDisconnect."""
    due = request.scope.get(DUE, asyncio.get_running_loop().time() + REQUEST_TIMEOUT_S)
    try:
        async with asyncio.timeout_at(due):
            return await _read(request, max_bytes)
    except TimeoutError:
        raise BodyRefused(408, f"The request did not arrive within {REQUEST_TIMEOUT_S:g} s") from None


def json_fields(body: bytes) -> dict[str, object]:
    """The fields of a JSON object. Raises CorollaError(INVALID)."""
    try:
        content = msgspec.json.decode(body or b"{}")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise CorollaError(Code.INVALID, "The body is not valid JSON in UTF-8") from None
    if not isinstance(content, dict):
        raise CorollaError(Code.INVALID, "The body must be a JSON object")
    return content


async def _read(request: Request, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    declared = request.headers.get("content-length", "")
    # Who asks before sending (curl does) need not send at all.
    hopeless = "expect" in request.headers and declared.isdigit() and int(declared) > max_bytes
    while not hopeless:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= max_bytes:
            chunks.append(chunk)
        if not message.get("more_body", False):
            break
        hopeless = size > MAX_WASTE * max_bytes
    if hopeless or size > max_bytes:
        raise BodyRefused(413, f"The body is too large: at most {max_bytes} bytes are allowed")
    return b"".join(chunks)


async def _parse(request: Request, body: bytes) -> dict[str, object]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return json_fields(body)
    if kind == "multipart/form-data":
        return await _multipart(request, body)
    if kind == "application/x-www-form-urlencoded":
        return _pairs(body)
    return {}


def _pairs(raw: bytes) -> dict[str, object]:
    """Fields of a query string or a urlencoded form; the first of several with the same name counts."""
    try:
        text = raw.decode()
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except UnicodeError:
        raise CorollaError(Code.INVALID, "The fields are not valid UTF-8") from None
    except ValueError:
        raise CorollaError(Code.INVALID, f"There are too many fields: at most {MAX_FIELDS} are allowed") from None
    return dict(reversed(pairs))


async def _multipart(request: Request, body: bytes) -> dict[str, object]:
    """The fields of a multipart form; files in it are no fields."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    limits = {"max_files": MAX_FIELDS, "max_fields": MAX_FIELDS, "max_part_size": len(body) + 1}
    try:
        form = await MultiPartParser(request.headers, stream(), **limits).parse()
    except MultiPartException:
        raise CorollaError(Code.INVALID, "The body is not a valid multipart form") from None
    await form.close()
    return {name: value for name, value in reversed(form.multi_items()) if isinstance(value, str)}
