"""A request's events as its answer: one JSON object, or a stream of chunks. Pure."""

import dataclasses
from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from gateway.openai_answers import (
    ChatChoice,
    ChatDelta,
    ChatText,
    Completion,
    TextChoice,
    chat_delta,
    chat_logprobs,
    text_choice,
    text_logprobs,
    usage_of,
)
from gateway.openai_calls import Call
from gateway.openai_deltas import Delta, Deltas
from shared.messages import JobFinished, LogEntry, Token

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


class Echo(msgspec.Struct, frozen=True):
    """What stands before the answers to a prompt: its text, and its tokens where something is told of them."""

    text: str = ""
    tokens: tuple[Token, ...] = ()


class Frame(msgspec.Struct, frozen=True):
    """What all objects of an answer share. choices: of each prompt. echoes: what is before the answers, by prompt."""

    id: str
    model: str
    created: int
    choices: int
    chat: bool
    logprobs: bool
    echoes: tuple[Echo, ...] = ()

    def echo(self, prompt: int) -> Echo:
        """What stands before the answers to this prompt."""
        return self.echoes[prompt] if self.echoes else Echo()


class Note(msgspec.Struct, frozen=True):
    """What another gateway must know of an answer to write it down. prompts: how many; usage: whether it is told at
    the end of a stream."""

    frame: Frame
    prompts: int
    usage: bool


def read_note(raw: bytes) -> Note | None:
    """The note as it was encoded by msgspec.msgpack; None for any other."""
    try:
        return msgspec.msgpack.decode(raw, type=Note)
    except msgspec.MsgspecError:
        return None


def frame_of(call: Call, id: str, created: int, echoes: tuple[Echo, ...]) -> Frame:
    """The frame of a call's answer."""
    return Frame(id, call.model, created, call.choices, call.chat, call.logprobs, echoes)


@dataclasses.dataclass
class _Gathered:
    texts: list[str] = dataclasses.field(default_factory=list)
    tokens: list[Token] = dataclasses.field(default_factory=list)
    finish: str = "stop"


class Whole:
    """Gathers the events of all jobs of a request into one object."""

    def __init__(self, frame: Frame, prompts: int) -> None:
        self._frame = frame
        self._deltas = [Deltas(frame.chat) for _ in range(prompts)]
        self._choices = [_Gathered() for _ in range(prompts * frame.choices)]
        self._endings: list[JobFinished] = []

    def feed(self, prompt: int, entry: LogEntry) -> None:
        """An entry of the job for that prompt."""
        for delta in self._deltas[prompt].feed(entry):
            gathered = self._choices[prompt * self._frame.choices + delta.choice]
            gathered.texts.append(delta.text)
            gathered.tokens += delta.tokens
            gathered.finish = delta.finish or gathered.finish
        if isinstance(entry.ending, JobFinished):
            self._endings.append(entry.ending)

    def content(self) -> Completion[TextChoice | ChatChoice]:
        """The answer; all jobs have ended."""
        frame = self._frame
        kind = "chat.completion" if frame.chat else "text_completion"
        choices = [self._choice(index, gathered) for index, gathered in enumerate(self._choices)]
        return Completion(frame.id, kind, frame.created, frame.model, choices, usage_of(self._endings))

    def _choice(self, index: int, gathered: _Gathered) -> TextChoice | ChatChoice:
        text, tokens, logprobs = "".join(gathered.texts), gathered.tokens, self._frame.logprobs
        if self._frame.chat:
            message = ChatText("assistant", text)
            return ChatChoice(index, message, chat_logprobs(tokens) if logprobs else None, gathered.finish)
        echo = self._frame.echo(index // self._frame.choices)
        told = text_logprobs(0, (*echo.tokens, *tokens)) if logprobs else None
        return TextChoice(index, echo.text + text, told, gathered.finish)


class Stream:
    """Makes server-sent events of a request's events.

    usage: whether the last chunk tells the usage. after: for clients that come back, events have ids: each token is
    then an event of its own, and the id of an event says that everything up to this seq was told; what was told up to
    `after` is left out. None gives no ids.
    """

    def __init__(self, frame: Frame, prompts: int, usage: bool, after: int | None = None) -> None:
        self._frame = frame
        self._usage = usage
        self._after = after
        self._deltas = [Deltas(frame.chat) for _ in range(prompts)]
        self._begun: set[int] = set()
        self._endings: list[JobFinished] = []
        self._last = 0

    def feed(self, prompt: int, entry: LogEntry) -> bytes:
        """The events for an entry of the job for that prompt, which may be none."""
        if isinstance(entry.ending, JobFinished):
            self._endings.append(entry.ending)
        if self._after is None:
            return b"".join(self._events(prompt, entry))
        parts = [LogEntry(entry.first + i, (token,), None) for i, token in enumerate(entry.tokens)]
        if entry.ending:
            parts.append(LogEntry(entry.last, (), entry.ending))
        return b"".join(self._numbered(prompt, part) for part in parts)

    def finish(self) -> bytes:
        """The end of the stream; all jobs have ended."""
        if not self._usage:
            return DONE
        event = self._event([], usage_of(self._endings))
        if self._after is not None:
            event = _id(self._last + 1) + event if self._after <= self._last else b""
        return event + DONE

    def _numbered(self, prompt: int, part: LogEntry) -> bytes:
        """The last event of a part has its id, so that nobody who has that lacks another one."""
        self._last = part.last
        events = self._events(prompt, part)
        if not events or part.last <= (self._after or 0):
            return b""
        return b"".join((*events[:-1], _id(part.last), events[-1]))

    def _events(self, prompt: int, entry: LogEntry) -> list[bytes]:
        events: list[bytes] = []
        for delta in self._deltas[prompt].feed(entry):
            index = prompt * self._frame.choices + delta.choice
            if index not in self._begun:
                self._begun.add(index)
                events += self._begin(index, prompt)
            events.append(self._event([self._choice(index, prompt, delta)]))
        return events

    def _begin(self, index: int, prompt: int) -> list[bytes]:
        """What comes before an answer: its role, or the echo."""
        if self._frame.chat:
            return [self._event([ChatDelta(index, ChatText("assistant", ""))])]
        echo = self._frame.echo(prompt)
        told = text_logprobs(0, echo.tokens) if echo.tokens else None
        return [self._event([TextChoice(index, echo.text, told)])] if echo.text or echo.tokens else []

    def _choice(self, index: int, prompt: int, delta: Delta) -> TextChoice | ChatDelta:
        if self._frame.chat:
            return chat_delta(index, delta, self._frame.logprobs)
        return text_choice(index, delta, len(self._frame.echo(prompt).text), self._frame.logprobs)

    def _event(self, choices: Sequence[TextChoice | ChatDelta], usage: object = None) -> bytes:
        frame = self._frame
        kind = "chat.completion.chunk" if frame.chat else "text_completion"
        told = usage if self._usage else UNSET
        chunk = Completion(frame.id, kind, frame.created, frame.model, choices, told)  # type: ignore[arg-type]
        return b"data: " + _encode(chunk) + b"\n\n"


def _id(seq: int) -> bytes:
    return f"id: {seq}\n".encode()
