"""What travels between gateway and worker: requests, tokens, endings. msgpack, checked on decode.

A **job** is one generate call. Its **log** is a sequence of events numbered from 1: each token takes one number (its
seq), and the ending takes the one after the last token.

What a log consists of is no business of the garbage collector's (gc=False), as it holds no cycles: else each look at
what slow readers have yet to take would stop a gateway for tens of milliseconds.
"""

import enum

import msgspec

from shared.errors import Code, InvalidField
from shared.sampling import BeamParams, SamplingParams

PRIORITIES = ("interactive", "batch")


class FinishReason(enum.StrEnum):
    """Why an answer ended: a stop string or end-of-text token; a limit on its length; the client's wish."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


class Message(msgspec.Struct, frozen=True, array_like=True):
    """What somebody said in a dialogue. role: system, user or assistant."""

    role: str
    content: str


class JobRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One generate call, as the worker needs it.

    model: the catalogue's key.
    prompt: text, or token ids; None continues the session, or starts from the model's BOS.
    sampling: how tokens are chosen; its seed is always set, so that the job can be repeated.
    max_new_tokens, max_length: limits in tokens, at most one is set; max_length counts the whole session and the
        prompt. With neither, the answer runs until a stop or until the session is full.
    stop: the answer ends with the first of these strings. show_stop: whether it stays in the text.
    extra_stop: likewise; but the session goes on as if the model had written stop[0] in its place.
    partial: what happens when the session is too short for the answer. False: nothing is generated, the job fails.
        True: all that fits is generated, then the job fails.
    show_special: whether special tokens, such as end of text, have text.
    choices: answers to give, numbered from 0. candidates: answers to make, of which those with the best mean
        logarithm of probability are given; 0 makes as many as it gives. Where it makes more, or searches with beams,
        tokens come all at once at the end, choice by choice.
    beams: search with beams instead of drawing; None draws.
    messages: a dialogue, of which the model's chat template makes the prompt; then prompt is None.
    shrink: max_new_tokens is a wish: where less fits, the answer gets that much.
    echo: the answer is the prompt itself: its tokens with their text, and with their logprobs, all but the first, where
        sampling asks for these; nothing is generated.
    embed: the answer is the prompt's embedding, which comes with the ending; nothing is generated.
    trace: the traceparent below which the worker's spans belong; empty where nobody traces.
    """

    model: str
    sampling: SamplingParams
    prompt: str | tuple[int, ...] | None = None
    max_new_tokens: int | None = None
    max_length: int | None = None
    stop: tuple[str, ...] = ()
    extra_stop: tuple[str, ...] = ()
    show_stop: bool = True
    partial: bool = False
    show_special: bool = True
    choices: int = 1
    candidates: int = 0
    beams: BeamParams | None = None
    messages: tuple[Message, ...] = ()
    shrink: bool = False
    echo: bool = False
    embed: bool = False
    trace: str = ""


class Logprobs(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How probable a token was, by the model itself: natural logarithms.

    piece: the bytes that it stands for. top: the most probable tokens with theirs, best first.
    """

    piece: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]


class Token(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One token of a choice: its id and the text that it adds to that, empty while a character, or what may become a
    hidden stop string, is incomplete. logprobs: only where they are asked for."""

    id: int
    text: str
    choice: int = 0
    logprobs: Logprobs | None = None


class JobFinished(msgspec.Struct, frozen=True, tag="finished", omit_defaults=True, gc=False):
    """The answer is complete.

    reason: why the first choice ended; others: why those after it did, empty where the job was cancelled.
    Usage counts this call's prompt (not the session before it) and its new tokens, those of all candidates.
    embedding: of the prompt, where it was asked for: little-endian float32.
    kept: the job's session now holds the prompt and the answer.
    """

    reason: FinishReason
    prompt_tokens: int = 0
    completion_tokens: int = 0
    others: tuple[FinishReason, ...] = ()
    embedding: bytes = b""
    kept: bool = False


class JobFailed(msgspec.Struct, frozen=True, tag="failed", gc=False):
    """The answer broke off. `message` is one line that may be shown to the client.

    lengths: of an answer that is too long: tokens of the prompt, of the answer, and how many may be used.
    """

    code: Code
    message: str
    lengths: tuple[int, int, int] | None = None


Ending = JobFinished | JobFailed


class LogEntry(msgspec.Struct, frozen=True, gc=False):
    """Some consecutive events of a log: tokens, and perhaps the ending.

    first: seq of the first token (or of the ending, where there are no tokens).
    last: seq of the last event in it.
    """

    first: int
    tokens: tuple[Token, ...]
    ending: Ending | None

    @property
    def last(self) -> int:
        return self.first + len(self.tokens) - (self.ending is None)


_request = msgspec.msgpack.Decoder(JobRequest)
_tokens = msgspec.msgpack.Decoder(tuple[Token, ...])
_ending = msgspec.msgpack.Decoder(Ending)
_encoder = msgspec.msgpack.Encoder()


def encode(message: JobRequest | Ending | tuple[Token, ...]) -> bytes:
    """The message as msgpack."""
    return _encoder.encode(message)


def decode_request(raw: bytes) -> JobRequest:
    """The inverse of encode; raises msgspec.ValidationError for anything else, such as what another version allows."""
    try:
        return _request.decode(raw)
    except InvalidField as error:
        raise msgspec.ValidationError(error.message) from error


def decode_entry(last: int, tokens: bytes, ending: bytes) -> LogEntry:
    """A log entry from its stored parts: the seq of its last event, and two encoded fields (one may be empty)."""
    decoded = _tokens.decode(tokens) if tokens else ()
    end = _ending.decode(ending) if ending else None
    return LogEntry(last - len(decoded) + (end is None), decoded, end)
