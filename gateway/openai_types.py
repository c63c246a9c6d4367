"""What clients send to the OpenAI API, as types: they check, and they document (see /openapi.json).

None stands for what was absent or null. Numbers and flags may come as strings. Bounds that the sampling itself has are
checked by SamplingParams and BeamParams; those here are the API's own.
"""

import re
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from shared.errors import InvalidField
from shared.sampling import MOST

MAX_CHOICES = 16
MAX_PROMPTS = 128
MAX_STOPS = 4
MAX_STOP_CHARS = 1000
MAX_FILES = 10_000
MAX_BATCHES = 100

Binary = Annotated[str, Meta(extra_json_schema={"format": "binary"})]
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
TokenId = Annotated[int, Meta(ge=0, le=MOST)]
Stop = Annotated[str, Meta(max_length=MAX_STOP_CHARS)]


class StreamOptions(msgspec.Struct, frozen=True):
    """include_usage: the last chunk tells how many tokens there were."""

    include_usage: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """Text is the only format that there is."""

    type: Literal["text"] = "text"


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """What both kinds of completion share."""

    model: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: float | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    do_sample: bool | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    use_beam_search: bool | None = None
    num_beams: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)] | None = None
    include_stop_str_in_output: bool | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    logit_bias: dict[int, float] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=2**31)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None


class CompletionRequest(Common, frozen=True, kw_only=True):
    """POST /v1/completions. max_tokens: 0 with echo, which gives the prompt alone."""

    prompt: str | list[str | TokenId | list[TokenId]] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=2**31)] | None = None


class TextPart(msgspec.Struct, frozen=True):
    """A part of a message's content."""

    text: str
    type: Literal["text"] = "text"


class ChatMessage(msgspec.Struct, frozen=True):
    """One message of a dialogue. message: an older name for content."""

    role: Role
    content: str | list[TextPart] | None = None
    message: str | None = None


class ChatRequest(Common, frozen=True, kw_only=True):
    """POST /v1/chat/completions. messages: a string is what the user says."""

    messages: str | list[ChatMessage]
    max_completion_tokens: Annotated[int, Meta(ge=1, le=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/tokenize: a text, or a dialogue as the model's template writes it."""

    model: str | None = None
    prompt: str | None = None
    messages: str | list[ChatMessage] | None = None
    add_special_tokens: bool | None = None


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/detokenize."""

    tokens: list[TokenId]
    model: str | None = None


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/embeddings. dimensions: only the model's own number of them can be had."""

    input: str | list[str | TokenId | list[TokenId]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None


class CancelRequest(msgspec.Struct, frozen=True):
    """POST /v1/cancel. id: of an answer, as the client saw it."""

    id: str


class FileUpload(msgspec.Struct, frozen=True):
    """POST /v1/files: a form. file: requests, a JSON object a line."""

    file: Binary
    purpose: Literal["batch"]


class FileQuery(msgspec.Struct, frozen=True):
    """GET /v1/files. after: the last file that the client has seen."""

    purpose: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_FILES)] = MAX_FILES
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/batches. completion_window: hours, such as 24h."""

    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: (
        Annotated[
            dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
            Meta(max_length=16),
        ]
        | None
    ) = None


class BatchQuery(msgspec.Struct, frozen=True):
    """GET /v1/batches. after: the last batch that the client has seen."""

    limit: Annotated[int, Meta(ge=1, le=MAX_BATCHES)] = 20
    after: str = ""


T = TypeVar("T", bound=msgspec.Struct)

_PLACE = re.compile(r"(?P<what>.*) - at (?:`key` in )?`\$\.?(?P<field>\w*)(?P<inner>.*)`")
_MISSING = re.compile(r"Object missing required field `(?P<field>\w+)`(?: - at `\$\.?(?P<outer>\w*).*`)?")


def read(fields: dict[str, object], kind: type[T]) -> T:
    """The fields as a request of that kind; unknown ones are ignored. Raises InvalidField."""
    try:
        return msgspec.convert(fields, kind, strict=False, str_keys=True)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None


def unknown_fields(fields: dict[str, object], kind: type[msgspec.Struct]) -> list[str]:
    """Names that a request of that kind does not have."""
    return [name for name in fields if name not in kind.__struct_fields__]


def _invalid(text: str) -> InvalidField:
    """The library's words, `Expected X, got Y - at $.field`, as an error of that field."""
    missing = _MISSING.fullmatch(text)
    if missing:
        outer, field = missing["outer"], missing["field"]
        return InvalidField(outer or field, f"`{field}` is required" + (f" in `{outer}`" if outer else ""))
    place = _PLACE.fullmatch(text)
    if place is None:
        return InvalidField("", text)
    return InvalidField(place["field"], f"`{place['field']}{place['inner']}`: {place['what'].replace('`', '')}")
