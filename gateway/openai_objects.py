"""What the OpenAI API answers with besides completions, as types: they are encoded, and they document."""

import msgspec


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
