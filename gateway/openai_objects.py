"""What the OpenAI API answers with besides completions, as types: they are encoded, and they document."""

from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class ModelCard(msgspec.Struct, frozen=True):
    """A model. created: when this gateway started. root: the catalogue's key. max_model_len: in tokens."""

    id: str
    created: int
    root: str
    max_model_len: int
    object: str = "model"
    owned_by: str = "corolla"


class ModelList(msgspec.Struct, frozen=True):
    """The models that are for everybody."""

    data: list[ModelCard]
    object: str = "list"


class Tokens(msgspec.Struct, frozen=True):
    """A text's token ids."""

    tokens: list[int]
    count: int
    max_model_len: int


class Detokenized(msgspec.Struct, frozen=True):
    """A text that was made of token ids."""

    prompt: str


class ReadingUsage(msgspec.Struct, frozen=True):
    """How many tokens there were."""

    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, frozen=True):
    """The mean of a model's last hidden states, of length 1: numbers, or little-endian float32 in Base64."""

    index: int
    embedding: list[float] | str
    object: str = "embedding"


class EmbeddingList(msgspec.Struct, frozen=True):
    """One embedding for each input."""

    data: list[Embedding]
    model: str
    usage: ReadingUsage
    object: str = "list"


class JobState(msgspec.Struct, frozen=True):
    """A job. status: queued, in_progress, completed, failed or cancelled. position: in the queue, from 1, while it is
    queued; estimated_wait_s: how long that may take, roughly. tokens: made so far."""

    id: str
    status: str
    created: int
    model: str
    tokens: int
    position: int | None
    estimated_wait_s: int | None
    object: str = "job"


class FileObject(msgspec.Struct, frozen=True):
    """A file. bytes: its size; created_at: seconds since 1970."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    object: str = "file"
    status: str = "processed"
    expires_at: int | None = None


class DeletedFile(msgspec.Struct, frozen=True):
    """A file that is there no more."""

    id: str
    object: str = "file"
    deleted: bool = True


class LineError(msgspec.Struct, frozen=True):
    """Why a batch's file was refused. line: from 1; null where it is about the file."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class LineErrors(msgspec.Struct, frozen=True):
    """Why a batch has failed: the first hundred errors of its file."""

    data: tuple[LineError, ...]
    object: str = "list"


class Counts(msgspec.Struct, frozen=True):
    """Requests of a batch: all of them, those answered, and those that had an error instead."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchObject(msgspec.Struct, frozen=True):
    """A batch. status: validating, in_progress, finalizing, completed, failed, expired, cancelling or cancelled; the
    times, seconds since 1970, tell when it was reached."""

    id: str
    endpoint: str
    errors: LineErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    request_counts: Counts
    metadata: dict[str, str] | None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    object: str = "batch"


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A part of a list, and whether there is more of it."""

    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


class ErrorFields(msgspec.Struct, frozen=True):
    """What went wrong. param: the field that is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """An error; its fields stand at the top level too, where older servers had them."""

    error: ErrorFields
    message: str
    type: str
    param: str | None
    code: str | None
    object: str = "error"
