"""How the next token is chosen; the only place that checks the bounds of these parameters."""

import math
from collections.abc import Sized

import msgspec

from shared.errors import InvalidField

MAX_LOGPROBS = 20
MAX_BIASES = 1024
MAX_STOP_TOKENS = 64
MAX_BEAMS = 16
MOST = 2**31 - 1  # of counts and token ids


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rules for choosing tokens; the defaults change nothing about the model's distribution.

    do_sample: False takes the most probable token and ignores temperature, top_k, top_p, min_p and typical_p.
    temperature: divisor of the logits, above 0, at most 100.
    top_k: keep the k most probable tokens; 0 keeps all.
    top_p: keep the smallest set with at least this probability, in (0, 1] (nucleus, arXiv 1904.09751).
    min_p: drop tokens less probable than this part of the most probable one, in [0, 1] (arXiv 2407.01082).
    typical_p: keep the tokens nearest to the expected information, with at least this probability, in (0, 1]
        (arXiv 2202.00666).
    repetition_penalty: above 0, at most 100; 1 is none (CTRL, arXiv 1909.05858), over prompt, session and output.
    presence_penalty, frequency_penalty: -2 .. 2, taken from the logit of a token of the output, once, and once for each
        time that it occurs there.
    logit_bias: added to the logits of these ids, -100 .. 100.
    min_tokens: no end-of-text token, nor any of stop_token_ids, before so many tokens.
    stop_token_ids: end the answer as an end-of-text token does. ignore_eos: that one does not end it.
    seed: names the random numbers, so the same seed, prompt and parameters give the same text; 0 .. 2**63 - 1.
    logprobs: so many of the most probable tokens are wanted with each token, 0 .. 20; None wants nothing.

    Raises InvalidField for a value outside these bounds.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int = 0
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _positive("temperature", self.temperature)
        _positive("repetition_penalty", self.repetition_penalty)
        _share("top_p", self.top_p)
        _share("typical_p", self.typical_p)
        _between("min_p", self.min_p, 0, 1)
        _between("presence_penalty", self.presence_penalty, -2, 2)
        _between("frequency_penalty", self.frequency_penalty, -2, 2)
        _whole("top_k", self.top_k, 0, MOST)
        _whole("min_tokens", self.min_tokens, 0, MOST)
        _whole("seed", self.seed, 0, 2**63 - 1)
        if self.logprobs is not None:
            _whole("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        _few("logit_bias", self.logit_bias, MAX_BIASES)
        for id, bias in self.logit_bias.items():
            _whole("logit_bias", id, 0, MOST)
            _between("logit_bias", bias, -100, 100)
        _few("stop_token_ids", self.stop_token_ids, MAX_STOP_TOKENS)
        for id in self.stop_token_ids:
            _whole("stop_token_ids", id, 0, MOST)


class BeamParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """Beam search, as transformers' generate does it (num_beams, length_penalty, early_stopping).

    beams: hypotheses kept at each step, 2 .. 16.
    length_penalty: exponent of the length that a hypothesis' score is divided by, -10 .. 10.
    early_stopping: True ends as soon as there are `beams` complete hypotheses; False when a better one is unlikely;
        None ("never") when there cannot be a better one.
    """

    beams: int
    length_penalty: float = 1.0
    early_stopping: bool | None = False

    def __post_init__(self) -> None:
        _whole("num_beams", self.beams, 2, MAX_BEAMS)
        _between("length_penalty", self.length_penalty, -10, 10)


def _positive(field: str, value: float) -> None:
    if not (math.isfinite(value) and 0 < value <= 100):
        raise InvalidField(field, f"`{field}` must be above 0 and at most 100, but is {value:g}")


def _share(field: str, value: float) -> None:
    if not 0 < value <= 1:
        raise InvalidField(field, f"`{field}` must be above 0 and at most 1, but is {value:g}")


def _between(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidField(field, f"`{field}` must be from {low:g} to {high:g}, but is {value:g}")


def _whole(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        most = {MOST: "", 2**63 - 1: " to 2**63 - 1"}.get(high, f" to {high}")
        raise InvalidField(field, f"`{field}` must be a whole number from {low}{most}, but is {value}")


def _few(field: str, value: Sized, most: int) -> None:
    if len(value) > most:
        raise InvalidField(field, f"`{field}` may have at most {most} entries, but has {len(value)}")
