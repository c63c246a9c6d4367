"""A large head behind a swarm that costs no CPU: its steps take a fixed time, and give back what they were given.

The embedding of each token is the head's row of the next one, so the text counts: `17` is followed by 18, 19, 20. Its
probability is far above all others, so that neither a number format nor the shape of a product changes it.

`python -m tests.bench.simulated` is `python -m worker` with this model.
"""

import argparse
import asyncio
import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

import tokenizers
import torch
import transformers

import worker.petals_compat  # before petals, which cannot be imported without it

# isort: split
from petals.client.remote_sequential import RemoteSequential
from petals.models.llama.config import DistributedLlamaConfig
from petals.models.llama.model import DistributedLlamaForCausalLM

import worker.__main__
from tests.bench.plain import PlainWriter
from tests.bench.shape import MODEL, Shape
from worker import models
from worker.devices import choose_threads
from worker.head import Head
from worker.petals_backend import PetalsSession
from worker.tokenizer import FastTokenizer

MAX_LENGTH = 4096
HEADS = 4
UNKNOWN = "0"


def make_tokenizer(vocab: int) -> transformers.PreTrainedTokenizerFast:
    """Every token is a number."""
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({str(id): id for id in range(vocab)}, unk_token=UNKNOWN)
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def make_model(shape: Shape) -> Any:
    """Petals' own Llama, all of it but the servers."""
    config = DistributedLlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, num_attention_heads=HEADS, num_key_value_heads=HEADS
    )
    with mock.patch("petals.models.llama.model.RemoteSequential", _Layers), torch.device("meta"):
        model = DistributedLlamaForCausalLM(config).requires_grad_(False)
    weight = torch.randn(shape.vocab, shape.hidden, generator=torch.Generator().manual_seed(0)).mul_(0.02)
    weight = weight.to(getattr(torch, shape.dtype))
    model.lm_head.weight = _frozen(weight)
    model.transformer.word_embeddings.weight = _frozen(weight.roll(-1, 0))
    model.transformer.ln_f.weight = _frozen(torch.ones(shape.hidden, dtype=weight.dtype))
    model.transformer.h.step_s = shape.step_ms / 1000
    return model.eval()


def _frozen(values: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(values, requires_grad=False)


class _Nobody:
    """Stands for the servers, and for what knows of them."""

    def shutdown(self) -> None:
        """There is nothing to end."""

    @property
    def dht(self) -> "_Nobody":
        return self


class _Layers(RemoteSequential):  # type: ignore[misc]
    """All blocks, for Petals' client."""

    step_s = 0.0

    def __init__(self, config: DistributedLlamaConfig, dht: None = None) -> None:
        super().__init__(config, sequence_manager=_Nobody())

    def forward(self, inputs: torch.Tensor, prompts: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
        time.sleep(self.step_s)
        return inputs


def make_plain(shape: Shape) -> PlainWriter:
    """The plain loop over it."""
    return PlainWriter(make_model(shape), make_tokenizer(shape.vocab))


class _Chain:
    """All blocks, for our worker."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s

    async def step(self, hidden: torch.Tensor, parents: Sequence[int] | None) -> torch.Tensor:
        await asyncio.sleep(self._step_s)
        return hidden

    async def close(self) -> None:
        """There is nothing to free."""


class SimulatedBackend:
    """The worker's own sessions and head over it."""

    def __init__(self, shape: Shape) -> None:
        model = make_model(shape)
        self.tokenizer = FastTokenizer(make_tokenizer(shape.vocab).backend_tokenizer, None, frozenset())
        self._embeddings = model.transformer.word_embeddings
        self._head = Head(model.transformer.ln_f, model.lm_head.weight)
        self._step_s = shape.step_ms / 1000
        torch.set_num_threads(choose_threads(self._head.weights))

    def open(self, max_length: int, rows: int = 1) -> PetalsSession:
        """A session of the worker's own kind."""
        return PetalsSession(self._embed, _Chain(self._step_s), self._head, max_length)

    def coverage(self) -> None:
        """There is no swarm."""

    async def stop(self) -> None:
        """End the head's thread."""
        self._head.close()

    @torch.inference_mode()
    def _embed(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        hidden: torch.Tensor = self._embeddings(torch.tensor(ids))
        return hidden


def main() -> int:
    """Run a worker that serves nothing else. Does not return, unless it could not start."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.simulated")
    for field in dataclasses.fields(Shape):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=field.type, required=True)
    shape = Shape(**vars(parser.parse_args()))

    def load(*_: Any) -> dict[str, models.Served]:
        return {MODEL: models.Served(SimulatedBackend(shape), MAX_LENGTH)}

    with mock.patch.object(models, "load", load):
        return worker.__main__.main()


if __name__ == "__main__":
    sys.exit(main())
