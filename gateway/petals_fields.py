"""Fields of the Petals Chat API, from strings (query, form) or JSON values, for HTTP and WebSocket alike.

A field that is null counts as absent, one that is empty does not; unknown fields are ignored.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping

from shared.errors import InvalidField
from shared.messages import JobRequest
from shared.sampling import SamplingParams

Fields = Mapping[str, object]

LENGTHS_TEXT = "You should set `max_length` or `max_new_tokens` (but not both)"
# Where a WebSocket client sets no length, the original took the default of transformers' generate.
DEFAULT_MAX_LENGTH = 20
MAX_STOPS = 16
MAX_STOP_CHARS = 1000

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")
_FLAGS = {"0": False, "1": True, "false": False, "true": True}


@dataclasses.dataclass(frozen=True)
class Call:
    """One generate call, as its client wrote it; None stands for what was absent.

    stop_sequence: "" ends the answer after one reply, as None does.
    """

    inputs: str | None
    sampling: SamplingParams
    max_length: int | None
    max_new_tokens: int | None
    stop_sequence: str | None
    extra_stop_sequences: tuple[str, ...]


def parse_call(fields: Fields, max_prompt_chars: int, draw_seed: Callable[[], int]) -> Call:
    """Read the fields of a generate call. Raises InvalidField."""
    inputs = text(fields, "inputs")
    if inputs is not None and len(inputs) > max_prompt_chars:
        message = f"`inputs` has {len(inputs)} characters, but at most {max_prompt_chars} are allowed"
        raise InvalidField("inputs", message)
    return Call(
        inputs=inputs or None,
        sampling=_sampling(fields, draw_seed),
        max_length=count(fields, "max_length"),
        max_new_tokens=count(fields, "max_new_tokens"),
        stop_sequence=_stop(fields.get("stop_sequence"), "stop_sequence"),
        extra_stop_sequences=_extra_stops(fields),
    )


def http_request(call: Call, model: str) -> JobRequest:
    """The job of a POST: exactly one of the two lengths. Raises InvalidField."""
    if (call.max_length is None) == (call.max_new_tokens is None):
        raise InvalidField("max_length", LENGTHS_TEXT)
    return JobRequest(model, call.sampling, call.inputs, call.max_new_tokens, call.max_length)


def socket_request(call: Call, model: str) -> tuple[JobRequest, int | None]:
    """The job of a WebSocket's generate call, and how many tokens go into each reply; None: all of them.

    With a stop sequence and max_new_tokens the answer runs on, that many tokens to a reply.
    """
    max_length = call.max_length
    if call.max_new_tokens is not None:
        max_length = None
    elif max_length is None:
        max_length = DEFAULT_MAX_LENGTH
    if not call.stop_sequence:
        return JobRequest(model, call.sampling, call.inputs, call.max_new_tokens, max_length), None
    request = JobRequest(
        model,
        call.sampling,
        call.inputs,
        max_length=max_length,
        stop=(call.stop_sequence,),
        extra_stop=call.extra_stop_sequences,
        partial=True,
    )
    return request, call.max_new_tokens


def text(fields: Fields, name: str) -> str | None:
    """A string. Raises InvalidField."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong(name, "a string", value)
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise _wrong(name, "valid Unicode", ascii(value)) from None
    return value


def whole(fields: Fields, name: str) -> int | None:
    """A whole number, also written as 20.0 or "20". Raises InvalidField."""
    value = fields.get(name)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value.partition(".")[0])
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63):
        return value
    raise _wrong(name, "a whole number", value)


def count(fields: Fields, name: str) -> int | None:
    """A whole number of at least 1. Raises InvalidField."""
    value = whole(fields, name)
    if value is not None and value < 1:
        raise InvalidField(name, f"`{name}` must be at least 1, but is {value}")
    return value


def flag(fields: Fields, name: str) -> bool:
    """0, 1, true or false; False where absent. Raises InvalidField."""
    value = fields.get(name)
    if isinstance(value, str) and value.lower() in _FLAGS:
        return _FLAGS[value.lower()]
    if value is None or (isinstance(value, bool | int | float) and value in (0, 1)):
        return bool(value)
    raise _wrong(name, "0, 1, true or false", value)


def identifier(fields: Fields, name: str) -> str | None:
    """An id of 32 hexadecimal digits. Raises InvalidField."""
    value = text(fields, name)
    if value is None or re.fullmatch(r"[0-9a-f]{32}", value):
        return value
    raise _wrong(name, "32 hexadecimal digits, in lower case", value)


def _number(fields: Fields, name: str) -> float | None:
    value = fields.get(name)
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            raise _wrong(name, "a number", value) from None
        if math.isfinite(number):
            return number
    elif value is None or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63):
        return value
    raise _wrong(name, "a number", value)


def _sampling(fields: Fields, draw_seed: Callable[[], int]) -> SamplingParams:
    """Greedy decoding looks at the repetition penalty only, as transformers does; types are checked all the same."""
    seed = whole(fields, "seed")
    if seed is None:
        seed = draw_seed()
    temperature, top_p = _number(fields, "temperature"), _number(fields, "top_p")
    top_k, penalty = whole(fields, "top_k"), _number(fields, "repetition_penalty")
    repetition_penalty = 1.0 if penalty is None else penalty
    if not flag(fields, "do_sample"):
        return SamplingParams(repetition_penalty=repetition_penalty, seed=seed)
    return SamplingParams(
        do_sample=True,
        temperature=1.0 if temperature is None else temperature,
        top_k=top_k or 0,
        top_p=1.0 if top_p is None else top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )


def _stop(value: object, name: str) -> str | None:
    if value is None or (isinstance(value, str) and len(value) <= MAX_STOP_CHARS):
        return value
    raise _wrong(name, f"a string of at most {MAX_STOP_CHARS} characters", value)


def _extra_stops(fields: Fields) -> tuple[str, ...]:
    name = "extra_stop_sequences"
    value = fields.get(name)
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or len(value) > MAX_STOPS:
        raise _wrong(name, f"a list of at most {MAX_STOPS} strings", value)
    stops = [_stop(each, name) for each in value]
    if None in stops:
        raise _wrong(name, "a list of strings", value)
    return tuple(stop for stop in stops if stop)


def _wrong(name: str, allowed: str, value: object) -> InvalidField:
    shown = value if isinstance(value, bool | int | float | str) else type(value).__name__
    return InvalidField(name, f"`{name}` must be {allowed}, but is {str(shown)[:40]!r}")
