"""How the next token is chosen; the only place that checks the bounds of these parameters."""

import math

import msgspec

from shared.errors import InvalidField


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rules for choosing tokens; the defaults change nothing about the model's distribution.

    do_sample: False takes the most probable token and ignores temperature, top_k and top_p.
    temperature: divisor of the logits, above 0, at most 100.
    top_k: keep the k most probable tokens; 0 keeps all.
    top_p: keep the smallest set with at least this probability, in (0, 1] (nucleus, arXiv 1904.09751).
    repetition_penalty: above 0, at most 100; 1 is none (CTRL, arXiv 1909.05858), over prompt, session and output.
    seed: names the random numbers, so the same seed, prompt and parameters give the same text; 0 .. 2**63 - 1.

    Raises InvalidField for a value outside these bounds.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        _positive("temperature", self.temperature)
        _positive("repetition_penalty", self.repetition_penalty)
        if self.top_k < 0:
            raise InvalidField("top_k", f"`top_k` must be a whole number of at least 0, but is {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InvalidField("top_p", f"`top_p` must be above 0 and at most 1, but is {self.top_p:g}")
        if not 0 <= self.seed < 2**63:
            raise InvalidField("seed", f"`seed` must be a whole number from 0 to 2**63 - 1, but is {self.seed}")


def _positive(field: str, value: float) -> None:
    if not (math.isfinite(value) and 0 < value <= 100):
        raise InvalidField(field, f"`{field}` must be above 0 and at most 100, but is {value:g}")
