"""How the next token is chosen; the only place that checks the bounds of these parameters."""

import math

import msgspec

from shared.errors import InvalidField

MAX_LOGPROBS = 20
MAX_BIASES = 1024
MAX_STOP_TOKENS = 64
MAX_BEAMS = 16


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
        if self.top_k < 0:
            raise InvalidField("top_k", f"`top_k` must be a whole number of at least 0, but is {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InvalidField("top_p", f"`top_p` must be above 0 and at most 1, but is {self.top_p:g}")
        if not 0 <= self.seed < 2**63:
            raise InvalidField("seed", f"`seed` must be a whole number from 0 to 2**63 - 1, but is {self.seed}")


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


def _positive(field: str, value: float) -> None:
    if not (math.isfinite(value) and 0 < value <= 100):
        raise InvalidField(field, f"`{field}` must be above 0 and at most 100, but is {value:g}")
