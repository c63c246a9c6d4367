"""From a dialogue to a prompt: the model's own chat template, or one of those that the catalogue may name.

A template gives text. Special tokens in it become such tokens when the text is encoded.
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Protocol

import jinja2
import jinja2.sandbox

from shared.catalog import Chat, TemplateName
from shared.errors import Code, CorollaError
from shared.messages import Message

# A template comes with its model, from people who may be careless: what it writes is bounded, and the time it takes.
MAX_CHARS = 4_000_000
MAX_TIME_S = 2.0
MAX_POWER = 64
MAX_REASON_CHARS = 200

ALPACA2_SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"
ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)


class Template(Protocol):
    """How a dialogue is written down.

    marked: whether the text holds all special tokens that the model expects; else those that belong to the start of
    any text are still to be added. stops: an answer ends with the first of these strings, as with a stop of the
    client's.
    """

    @property
    def marked(self) -> bool: ...

    @property
    def stops(self) -> tuple[str, ...]: ...

    def write(self, messages: Sequence[Message]) -> str:
        """The prompt after which the assistant speaks. Raises CorollaError(INVALID)."""


_TOO_MUCH = "the model's template makes too much of these messages"

Writer = Callable[[Sequence[Message]], str]


@dataclasses.dataclass(frozen=True)
class Named:
    """One of the templates that are known here."""

    writer: Writer
    stops: tuple[str, ...] = ()
    marked: bool = False

    def write(self, messages: Sequence[Message]) -> str:
        """See Template."""
        return self.writer(messages)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """A sandbox whose products are bounded too: `"x" * 10**12` would take all memory in one step."""

    intercepted_binops = frozenset({"*", "**", "%"})
    dangerous_filters = ("center", "filesizeformat", "format", "lipsum", "wordwrap")

    def __init__(self) -> None:
        # loopcontrols, tojson and raise_exception are what later versions of transformers offer as well.
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        self.globals["raise_exception"] = _reject
        for name in self.dangerous_filters:
            self.filters.pop(name, None)
            self.globals.pop(name, None)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """The product, power or remainder of two small numbers, or of a short text. Raises SecurityError."""
        sizes = [each if isinstance(each, int | float) else len(each) for each in (left, right)]
        bound = MAX_POWER if operator == "**" else MAX_CHARS
        if max(abs(size) for size in sizes) > bound or (operator == "%" and isinstance(left, str)):
            raise jinja2.exceptions.SecurityError("it calculates with too large a number")
        return super().call_binop(context, operator, left, right)

    def call(self, context: jinja2.runtime.Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """What a function gives that gets no large number. Raises SecurityError."""
        if any(isinstance(each, int) and abs(each) > MAX_CHARS for each in (*args, *kwargs.values())):
            raise jinja2.exceptions.SecurityError("it calls a function with too large a number")
        return super().call(context, function, *args, **kwargs)


class Own:
    """A model's own chat template, as transformers compiles it. `marks`: its special tokens by name (bos_token, ...).

    Raises jinja2.TemplateError for one that is no template.
    """

    marked = True
    stops: tuple[str, ...] = ()

    def __init__(self, source: str, marks: Mapping[str, object]) -> None:
        self._template = _Environment().from_string(source)
        self._marks = dict(marks)

    def write(self, messages: Sequence[Message]) -> str:
        """See Template."""
        dialogue = [{"role": message.role, "content": message.content} for message in messages]
        try:
            with _limited(MAX_TIME_S):
                return self._render(messages=dialogue, add_generation_prompt=True, **self._marks)
        except jinja2.TemplateError as error:
            reason = " ".join(str(error.message).split())[:MAX_REASON_CHARS]
            raise _invalid(f"the model's template does not take these messages: {reason}") from error
        except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            raise _invalid("the model's template does not take these messages") from error

    def _render(self, **context: object) -> str:
        pieces: list[str] = []
        size = 0
        for piece in self._template.generate(**context):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_CHARS:
                raise _invalid(_TOO_MUCH)
        return "".join(pieces)


def make_template(chat: Chat, own: str | None, marks: Mapping[str, object]) -> Template:
    """What the catalogue names, else the model's own, else plain turns. Raises jinja2.TemplateError."""
    if chat.template is None and own is not None:
        return Own(own, marks)
    bos, eos = str(marks.get("bos_token", "")), str(marks.get("eos_token", ""))
    name: TemplateName = chat.template or "plain"
    match name:
        case "llama2":
            return Named(lambda messages: _llama2(messages, None, bos, eos))
        case "alpaca2":
            return Named(lambda messages: _llama2(messages, ALPACA2_SYSTEM, bos, eos))
        case "alpaca":
            return Named(_alpaca, ("### Instruction:",))
        case "chatml":
            return Named(_chatml, ("<|im_end|>",))
        case "plain":
            stops = tuple(dict.fromkeys((chat.stop_token, *chat.extra_stop_sequences)))
            return Named(lambda messages: _plain(messages, chat.sep_token), stops)


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """At most so long for what is called here, told at each of its lines: a template may loop without writing
    anything, and nothing else ends a thread. Raises CorollaError(INVALID)."""
    end = time.monotonic() + seconds

    def watch(frame: FrameType, event: str, _: object) -> Any:
        if time.monotonic() > end:
            raise _invalid(_TOO_MUCH)
        # Jinja compiles a template to Python of this name; what it calls is checked when it is called.
        return watch if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)


def _reject(message: str) -> None:
    raise jinja2.TemplateError(message)


def _invalid(reason: str) -> CorollaError:
    return CorollaError(Code.INVALID, f"`messages`: {reason}")


def _in_turn(messages: Sequence[Message]) -> tuple[str | None, list[tuple[str, str]]]:
    """The last system message, and (question, answer) in turn; the last answer is "". Raises CorollaError(INVALID)."""
    system = [message.content for message in messages if message.role == "system"]
    said = [message for message in messages if message.role != "system"]
    wanted = ["user", "assistant"] * (len(said) // 2) + ["user"]
    if [message.role for message in said] != wanted:
        raise _invalid("user and assistant must speak in turn, the user first and last")
    texts = [message.content.strip() for message in said] + [""]
    return (system[-1] if system else None), list(zip(texts[::2], texts[1::2], strict=True))


def _llama2(messages: Sequence[Message], default: str | None, bos: str, eos: str) -> str:
    """Meta's format for Llama 2 Chat. The first BOS is the tokenizer's."""
    given, turns = _in_turn(messages)
    system = default if given is None else given
    block = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    questions = [f"[INST] {block if number == 0 else ''}{said} [/INST]" for number, (said, _) in enumerate(turns)]
    answers = [f" {answer} {eos}{bos}" for _, answer in turns[:-1]] + [""]
    return "".join(part for turn in zip(questions, answers, strict=True) for part in turn)


def _alpaca(messages: Sequence[Message]) -> str:
    """Stanford Alpaca's format, one block after the other."""
    system, turns = _in_turn(messages)
    blocks = [f"### Instruction:\n{said}\n\n### Response:\n{answer}" for said, answer in turns]
    return "\n\n".join((system or ALPACA_SYSTEM, *blocks))


def _chatml(messages: Sequence[Message]) -> str:
    """OpenAI's Chat Markup Language."""
    turns = [f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n" for message in messages]
    return "".join((*turns, "<|im_start|>assistant\n"))


def _plain(messages: Sequence[Message], separator: str) -> str:
    """Turns as the Petals Chat page writes them."""
    names = {"system": "", "user": "Human: ", "assistant": "Assistant: "}
    turns = [f"{names[message.role]}{message.content}{separator}" for message in messages]
    return "".join((*turns, "Assistant:"))
