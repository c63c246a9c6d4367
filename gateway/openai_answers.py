"""What the OpenAI API answers with: objects, as types, and how deltas become them. Pure."""

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from gateway.openai_deltas import Delta
from shared.messages import JobFinished, Logprobs, Token


class Usage(msgspec.Struct, frozen=True):
    """How many tokens there were."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class TextLogprobs(msgspec.Struct, frozen=True):
    """Natural logarithms of tokens' probabilities; null where the model does not tell, as of a prompt's first token.

    text_offset: where each token's text begins, in characters.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(msgspec.Struct, frozen=True):
    """One answer of a completion, or what is new in it."""

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: str | None = None


class TopLogprob(msgspec.Struct, frozen=True):
    """A token that the model could have chosen."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token that the model chose."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Natural logarithms of tokens' probabilities."""

    content: list[TokenLogprob]
    refusal: None = None


class ChatText(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message, or what is new in it."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    """One answer of a dialogue."""

    index: int
    message: ChatText
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class ChatDelta(msgspec.Struct, frozen=True):
    """What is new in one answer of a dialogue."""

    index: int
    delta: ChatText
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


Choice = TypeVar("Choice", TextChoice, ChatChoice, ChatDelta, TextChoice | ChatChoice, TextChoice | ChatDelta)


class Completion(msgspec.Struct, Generic[Choice], frozen=True):
    """An answer, or a chunk of one. usage: in chunks only where it was asked for, null but in the last one."""

    id: str
    object: str
    created: int
    model: str
    choices: Sequence[Choice]
    usage: Usage | UnsetType | None = UNSET


def usage_of(endings: Iterable[JobFinished]) -> Usage:
    """The sum over all jobs of a request."""
    counts = [(ending.prompt_tokens, ending.completion_tokens) for ending in endings]
    prompt, completion = sum(count[0] for count in counts), sum(count[1] for count in counts)
    return Usage(prompt, completion, prompt + completion)


def text_logprobs(start: int, tokens: Sequence[Token]) -> TextLogprobs:
    """Logprobs in the shape of completions; `start` is where the first token's text begins."""
    found = TextLogprobs([], [], [], [])
    for token in tokens:
        chosen = token.logprobs
        written = _text(chosen.piece, "bytes:") if chosen else token.text
        found.tokens.append(written)
        found.token_logprobs.append(chosen.logprob if chosen else None)
        found.top_logprobs.append(_tops(chosen) | {written: chosen.logprob} if chosen else None)
        found.text_offset.append(start)
        start += len(token.text)
    return found


def chat_logprobs(tokens: Sequence[Token]) -> ChatLogprobs:
    """Logprobs in the shape of dialogues."""
    return ChatLogprobs([_token_logprob(token.logprobs) for token in tokens if token.logprobs])


def text_choice(index: int, delta: Delta, offset: int, logprobs: bool) -> TextChoice:
    """A delta as a completion's choice; `offset` is the length of what is echoed before it."""
    told = text_logprobs(offset + delta.start, delta.tokens) if logprobs and delta.tokens else None
    return TextChoice(index, delta.text, told, delta.finish)


def chat_delta(index: int, delta: Delta, logprobs: bool) -> ChatDelta:
    """A delta as a dialogue's choice."""
    told = chat_logprobs(delta.tokens) if logprobs and delta.tokens else None
    return ChatDelta(index, ChatText(content=delta.text) if delta.text else ChatText(), told, delta.finish)


def _tops(chosen: Logprobs) -> dict[str, float]:
    return {_text(piece, "bytes:"): logprob for piece, logprob in chosen.top}


def _token_logprob(chosen: Logprobs) -> TokenLogprob:
    top = [TopLogprob(_text(piece), logprob, list(piece)) for piece, logprob in chosen.top]
    return TokenLogprob(_text(chosen.piece), chosen.logprob, list(chosen.piece), top)


def _text(piece: bytes, mark: str = "") -> str:
    """A token as text; a part of a character is shown as its bytes, `\\xe2`, behind the mark."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return mark + piece.decode(errors="backslashreplace")
