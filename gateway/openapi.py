"""What the OpenAI API takes and gives, as an OpenAPI document made from its message types: GET /openapi.json."""

import dataclasses
from typing import Any

import msgspec

from gateway.openai_answers import ChatChoice, ChatDelta, Completion, TextChoice
from gateway.openai_objects import (
    BatchObject,
    DeletedFile,
    Detokenized,
    EmbeddingList,
    ErrorAnswer,
    FileObject,
    JobState,
    ModelCard,
    ModelList,
    Page,
    Tokens,
)
from gateway.openai_types import (
    BatchQuery,
    BatchRequest,
    Binary,
    CancelRequest,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    FileQuery,
    FileUpload,
    TokenizeRequest,
)

VERSION = "1"
ABOUT = (
    "The OpenAI API of Corolla. Numbers and flags may come as strings, unknown fields are ignored, null counts as "
    "absent. Beside the bounds that are given here, fields have those of sampling; whatever is out of bounds is told "
    "by name, with status 400. Where the operator wants to know who asks, each call needs the header "
    "`Authorization: Bearer KEY`."
)
_ERRORS = {
    400: "The request is wrong; `param` names the field.",
    401: "An API key is needed, and this is none that counts.",
    403: "The API key is not for this, or the model's licence allows no public API.",
    404: "There is no such model or job.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    429: "Too many of this client's requests wait, or came within a minute; see Retry-After.",
    500: "A mistake of the server's.",
    503: "Nothing can answer now; see Retry-After.",
    504: "The answer was not finished in time.",
}
_GUARDED = (401, 403)
_BODY, _WORK = (400, 408, 413), (403, 404, 429, 500, 503, 504)
_READ = (400, 500, 503)
_JSON, _FORM, _BYTES = "application/json", "multipart/form-data", "application/octet-stream"
_RESUMABLE = ("x-resumable", "`true` numbers the events of a stream, which can be gone on with at any gateway")
_KEY = ("Idempotency-Key", "the same key with the same body gives the same job")
_LAST = ("Last-Event-ID", "the id of the last event that was seen")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One endpoint. streams: it may answer with server-sent events, each of this type. headers: name, meaning.

    kind, gives: media types of what it takes and answers. query: what may stand behind the path.
    """

    method: str
    path: str
    about: str
    answer: Any
    errors: tuple[int, ...]
    takes: Any = None
    streams: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    kind: str = _JSON
    gives: str = _JSON
    query: type[msgspec.Struct] | None = None


OPERATIONS = (
    Operation("get", "/v1/models", "The models that are for everybody.", ModelList, (500,)),
    Operation("get", "/v1/models/{name}", "One model, by its key or an alias.", ModelCard, (403, 404, 500)),
    Operation(
        "post",
        "/v1/completions",
        "Go on with a text, or with several.",
        Completion[TextChoice],
        _BODY + _WORK,
        CompletionRequest,
        Completion[TextChoice],
        (_KEY, _RESUMABLE),
    ),
    Operation(
        "post",
        "/v1/chat/completions",
        "Go on with a dialogue.",
        Completion[ChatChoice],
        _BODY + _WORK,
        ChatRequest,
        Completion[ChatDelta],
        (_KEY, _RESUMABLE),
    ),
    Operation("post", "/v1/embeddings", "Texts as vectors.", EmbeddingList, _BODY + _WORK, EmbeddingRequest),
    Operation("post", "/v1/tokenize", "The ids of a text's tokens.", Tokens, _BODY + _WORK, TokenizeRequest),
    Operation("post", "/v1/detokenize", "The text of token ids.", Detokenized, _BODY + _WORK, DetokenizeRequest),
    Operation("get", "/v1/jobs/{id}", "Where an answer is.", JobState, (404, 500, 503)),
    Operation("delete", "/v1/jobs/{id}", "End an answer as it stands.", JobState, (404, 500, 503)),
    Operation(
        "get",
        "/v1/jobs/{id}/stream",
        "The events of an answer, after the last one that was seen.",
        None,
        (400, 403, 404, 429, 500, 503, 504),
        streams=Completion[ChatDelta],
        headers=(_LAST,),
    ),
    Operation(
        "post",
        "/v1/cancel",
        "End an answer as it stands, by its id.",
        JobState,
        (*_BODY, 404, 500, 503),
        CancelRequest,
    ),
    Operation("get", "/v1/files", "The files, the newest first.", Page[FileObject], _READ, query=FileQuery),
    Operation("post", "/v1/files", "Keep a file of requests.", FileObject, (*_BODY, 500, 503), FileUpload, kind=_FORM),
    Operation("get", "/v1/files/{id}", "One file.", FileObject, (404, 500, 503)),
    Operation("delete", "/v1/files/{id}", "Delete a file.", DeletedFile, (404, 500, 503)),
    Operation("get", "/v1/files/{id}/content", "What is in a file.", Binary, (404, 500, 503), gives=_BYTES),
    Operation("get", "/v1/batches", "The batches, the newest first.", Page[BatchObject], _READ, query=BatchQuery),
    Operation(
        "post",
        "/v1/batches",
        "Answer the requests of a file, after everybody else's.",
        BatchObject,
        (*_BODY, 404, 429, 500, 503),
        BatchRequest,
    ),
    Operation("get", "/v1/batches/{id}", "Where a batch is.", BatchObject, (404, 500, 503)),
    Operation(
        "post", "/v1/batches/{id}/cancel", "End a batch; what it has is kept.", BatchObject, (400, 404, 500, 503)
    ),
)


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    types = [ErrorAnswer, *(kind for each in OPERATIONS for kind in (each.answer, each.takes, each.streams) if kind)]
    unique = list(dict.fromkeys(types))
    found, components = msgspec.json.schema_components(unique, ref_template="#/components/schemas/{name}")
    schemas = dict(zip(unique, found, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Corolla", "version": VERSION, "description": ABOUT},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    answers = {"200": {"description": "The answer.", "content": _content(operation, schemas)}}
    for status in sorted({*operation.errors, *_GUARDED}):
        content = {"application/json": {"schema": schemas[ErrorAnswer]}}
        answers[str(status)] = {"description": _ERRORS[status], "content": content}
    told: dict[str, Any] = {"summary": operation.about, "responses": answers, "parameters": _parameters(operation)}
    if operation.takes:
        content = {operation.kind: {"schema": schemas[operation.takes]}}
        told["requestBody"] = {"required": True, "content": content}
    return told


def _content(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.answer:
        content[operation.gives] = {"schema": schemas[operation.answer]}
    if operation.streams:
        about = "The last event's data is `[DONE]`, all others' an object."
        data = {"type": "string", "description": about, "contentSchema": schemas[operation.streams]}
        content["text/event-stream"] = {
            "schema": {"type": "object", "properties": {"data": data}, "required": ["data"]}
        }
    return content


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    _, brace, rest = operation.path.partition("{")
    found: list[dict[str, Any]] = [
        {"name": name, "in": "header", "description": about} for name, about in operation.headers
    ]
    if brace:
        found.insert(0, {"name": rest.partition("}")[0], "in": "path", "required": True})
    found = [each | {"schema": {"type": "string"}} for each in found]
    return found + [_query(field) for field in msgspec.structs.fields(operation.query)] if operation.query else found


def _query(field: msgspec.structs.FieldInfo) -> dict[str, Any]:
    return {"name": field.encode_name, "in": "query", "schema": msgspec.json.schema(field.type)}
