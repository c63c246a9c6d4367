"""The tiny model of a test swarm: loaded as a Petals backend, written with, and checked against transformers."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Sequence
from typing import Any
from unittest import mock

import torch

from shared.catalog import Model
from shared.sampling import SamplingParams
from tests.swarm import Swarm
from worker import petals_backend
from worker.backend import Backend, BackendSession, Draw
from worker.petals_backend import PetalsBackend, load

GREEDY = SamplingParams()
PROMPTS = [f"word{i}: more words, number {i * 7}?" for i in range(20)]


def catalog_entry(swarm: Swarm) -> Model:
    """The catalogue's entry of the swarm's model, in the folder above its own."""
    return Model(repository="tiny", name="Tiny", path=swarm.model.name, dht_prefix=swarm.dht_prefix)


def load_tiny(swarm: Swarm, request_timeout_s: float = 30.0, streams: bool = True) -> PetalsBackend:
    """Load it. streams: speak with the servers ourselves, else through Petals' own client."""
    with mock.patch.object(petals_backend, "can_stream", return_value=streams):
        return load(catalog_entry(swarm), swarm.model.parent, swarm.peers, "float32", "cpu", 16, request_timeout_s)


@contextlib.asynccontextmanager
async def loaded(swarm: Swarm, request_timeout_s: float = 30.0, streams: bool = True) -> AsyncIterator[PetalsBackend]:
    """As load_tiny, for a while."""
    backend = await asyncio.to_thread(load_tiny, swarm, request_timeout_s, streams)
    try:
        yield backend
    finally:
        await backend.stop()
        gc.collect()  # what hivemind leaves behind, while the caller still bears its warnings


def expected(local: Any, ids: Sequence[int], new: int) -> list[int]:
    """What transformers' greedy generate writes after `ids`. It ends early with an end-of-text token."""
    row = torch.tensor([ids])
    written = local.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=new, do_sample=False)
    return list(written[0, len(ids) :].tolist())


async def step(session: BackendSession, ids: Sequence[int], draw: Draw) -> int:
    """Feed one row; the token chosen."""
    (choice,) = await session.step([ids], [draw])
    return choice.id


async def write(
    session: BackendSession,
    feed: Sequence[int],
    new: int,
    sampling: SamplingParams = GREEDY,
    before: Sequence[int] = (),
    position: int = 0,
) -> list[int]:
    """`new` tokens after `before` (which the session knows) and `feed` (which it does not)."""
    ids = [*before, *feed]
    draw = Draw(sampling, ids, len(ids) - position)
    for _ in range(new):
        ids.append(await step(session, feed, draw))
        feed = ids[-1:]
    return ids[-new:]


async def answer(backend: Backend, ids: Sequence[int], new: int, sampling: SamplingParams = GREEDY) -> list[int]:
    """`new` tokens after `ids`, in a session of their own."""
    session = backend.open(len(ids) + new)
    try:
        return await write(session, ids, new, sampling)
    finally:
        await session.close()


def until_end(tokens: list[int], eos_ids: frozenset[int]) -> list[int]:
    """As far as generate would write."""
    ends = [i for i, token in enumerate(tokens) if token in eos_ids]
    return tokens[: ends[0] + 1] if ends else tokens
