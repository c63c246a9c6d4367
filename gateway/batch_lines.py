"""The lines of a batch's files: requests that come in, results that go out. Pure."""

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from gateway.batch_records import MAX_LINES, derived_id
from gateway.openai_objects import Counts, LineError

MAX_ERRORS = 100
MAX_ID_CHARS = 512

CustomId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)]


class Line(msgspec.Struct, frozen=True):
    """One request."""

    custom_id: CustomId
    method: Literal["POST"]
    url: str
    body: dict[str, msgspec.Raw]


class Response(msgspec.Struct, frozen=True):
    """What the endpoint answered, errors of its own included."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class Refusal(msgspec.Struct, frozen=True):
    """Why a request was not answered at all."""

    code: str
    message: str


class Result(msgspec.Struct, frozen=True):
    """One line of an output or error file."""

    id: str
    custom_id: str
    response: Response | None
    error: Refusal | None

    @property
    def succeeded(self) -> bool:
        """Whether it belongs into the output, and not among the errors."""
        return self.response is not None and self.response.status_code == 200


REFUSALS = {
    "batch_cancelled": "The batch was cancelled before this request was answered.",
    "batch_expired": "This request could not be answered before the completion window expired.",
}

_decoder = msgspec.json.Decoder(Line)
_results = msgspec.json.Decoder(Result)
encode = msgspec.json.Encoder().encode


def read_line(raw: bytes) -> Line:
    """A request that was found to be sound before. Raises msgspec.ValidationError."""
    return _decoder.decode(raw)


def read_result(raw: bytes) -> Result:
    """A line that was written here."""
    return _results.decode(raw)


def result(batch: str, line: Line, response: Response | None, refusal: str | None) -> bytes:
    """A result's line, without its end. refusal: a key of REFUSALS."""
    error = Refusal(refusal, REFUSALS[refusal]) if refusal else None
    return encode(Result(f"batch_req_{derived_id(batch, line.custom_id)}", line.custom_id, response, error))


def count(lines: Iterable[bytes], total: int) -> Counts:
    """How these results came out."""
    succeeded = [read_result(line).succeeded for line in lines]
    return Counts(total, sum(succeeded), len(succeeded) - sum(succeeded))


def check(lines: Iterable[bytes], endpoint: str, max_bytes: int) -> tuple[int, list[LineError]]:
    """How many requests there are, and what is wrong with them: at most 100 errors are told."""
    errors: list[LineError] = []
    seen: set[str] = set()
    number = 0
    for number, raw in enumerate(lines, 1):
        if number > MAX_LINES:
            errors.append(LineError("too_many_lines", f"A batch may hold {MAX_LINES} requests at most"))
            break
        error = _fault(raw, endpoint, max_bytes, seen)
        if error:
            errors.append(msgspec.structs.replace(error, line=number))
            if len(errors) == MAX_ERRORS:
                break
    if not number:
        errors.append(LineError("empty_file", "The file holds no requests"))
    return number, errors


def _fault(raw: bytes, endpoint: str, max_bytes: int, seen: set[str]) -> LineError | None:
    if len(raw) > max_bytes:
        return LineError("line_too_long", f"The line is too long: at most {max_bytes} bytes are allowed")
    try:
        line = _decoder.decode(raw)
    except msgspec.ValidationError as error:
        return LineError("invalid_request", str(error).replace("`", ""))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return LineError("invalid_json_line", "The line is not a JSON object in UTF-8")
    if line.url != endpoint:
        return LineError("mismatched_endpoint", f"url must be {endpoint}, as the batch's endpoint is", "url")
    if bytes(line.body.get("stream", b"")) not in (b"", b"false", b"null"):
        return LineError("invalid_request", "stream must not be true in a batch", "body.stream")
    if line.custom_id in seen:
        return LineError("duplicate_custom_id", "The custom_id was used in an earlier line", "custom_id")
    seen.add(line.custom_id)
    return None
