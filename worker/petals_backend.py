"""The backend `petals`: blocks on the servers of a swarm; tokenizer, embeddings and head here.

A step is: ids → word embeddings → servers → final norm → head, for the last position → the next token.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

import worker.petals_compat as compat  # before petals, which cannot be imported without it

# isort: split
from hivemind.p2p import P2PDaemonError
from petals import AutoDistributedModelForCausalLM
from petals.data_structures import ServerState
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from shared.catalog import Model
from shared.errors import Code, CorollaError
from shared.reports import Coverage
from worker.backend import Choice, Draw
from worker.devices import DtypeName, choose_dtype, choose_threads
from worker.head import MAX_ROWS, Head
from worker.petals_chain import Chain, StreamChain, can_stream, lacks_room
from worker.petals_public import PublicChain
from worker.tokenizer import FastTokenizer, load_tokenizer

ATTEMPTS = 1  # Petals' own at everything, whose default is to go on for ever; whoever uses a session tries again
DHT_STOP_TIMEOUT_S = 10.0

Embed = Callable[[Sequence[Sequence[int]]], torch.Tensor]


class ModelError(Exception):
    """A model cannot be loaded; the text is one line for the operator."""


class PetalsSession:
    """An attention cache on the servers, and the model's own part here."""

    def __init__(self, embed: Embed, chain: Chain, head: Head, max_length: int) -> None:
        self._embed = embed
        self._chain = chain
        self._head = head
        self._max_length = max_length

    async def step(
        self, ids: Sequence[Sequence[int]], draws: Sequence[Draw], parents: Sequence[int] | None = None
    ) -> list[Choice]:
        """Feed `ids` and choose the next tokens; see BackendSession."""
        try:
            hidden = await self._chain.step(self._embed(ids), parents)
            return await self._head.choose(hidden[:, -1], draws) if draws else []
        except CorollaError:
            raise
        except Exception as error:  # what a server, the network or the library raises has no common root
            raise _translate(error, self._max_length) from error

    async def total(self, ids: Sequence[int]) -> Sequence[float]:
        """Feed `ids`, and give the sum of their last hidden states; see BackendSession."""
        try:
            hidden = await self._chain.step(self._embed([ids]), None)
            return self._head.total(hidden[0])
        except Exception as error:  # as with a step
            raise _translate(error, self._max_length) from error

    async def score(self, ids: Sequence[int], draws: Sequence[Draw]) -> list[Choice]:
        """Feed `ids`, and tell how probable what follows each is; see BackendSession."""
        try:
            (hidden,) = await self._chain.step(self._embed([ids]), None)
            found = []
            for start in range(0, len(ids), MAX_ROWS):  # so that others' rows go through the head between these
                rows = slice(start, start + MAX_ROWS)
                found += await self._head.choose(hidden[rows], draws[rows])
            return found
        except Exception as error:  # as with a step
            raise _translate(error, self._max_length) from error

    async def close(self) -> None:
        """Free the cache, on the servers too; see BackendSession."""
        await self._chain.close()


class PetalsBackend:
    """One model of a swarm. Made by `load`."""

    def __init__(self, model: Any, tokenizer: FastTokenizer, head: Head, slots: int) -> None:
        self.tokenizer = tokenizer
        self._transformer = model.transformer
        self._manager = model.transformer.h.sequence_manager
        self._head = head
        # For what waits for the network: a session may be at it twice, with a step and the close of a step given up.
        self._pool = ThreadPoolExecutor(2 * slots + 1, thread_name_prefix="petals")
        self._new_chain: type[StreamChain | PublicChain] = StreamChain if can_stream(self._manager) else PublicChain
        self._pool.submit(self._look_around)

    def open(self, max_length: int, rows: int = 1) -> PetalsSession:
        """A session with room for `max_length` ids; contacts no server before its first step."""
        chain = self._new_chain(self._manager, self._pool, max_length)
        return PetalsSession(self._embed, chain, self._head, max_length)

    def coverage(self) -> Coverage | None:
        """How many servers hold each block, by Petals' routing, which asks the swarm once a minute."""
        manager, info = self._manager, self._manager.state.sequence_info
        asked_at = info.last_updated_time
        if asked_at is None:
            return None
        with manager.lock_changes:
            held = [list(block.servers.values()) for block in info.block_infos]
        servers = (sum(server.state == ServerState.ONLINE for server in each) for each in held)
        return Coverage(tuple(servers), round(time.perf_counter() - asked_at, 1))

    def _look_around(self) -> None:
        """Have the routing ask the swarm from now on, and not only from the first job on. Waits for the network."""
        _ = self._manager.rpc_info

    async def stop(self) -> None:
        """End the processes and connections that belong to the model. A step under way fails within its time-out."""
        self._head.close()
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._pool.shutdown(wait=False)  # a step that still waits for a thread shall fail, not look cancelled
        _leave(self._manager)

    @torch.inference_mode()
    def _embed(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Hidden states [rows, positions, size] before the first block, on the CPU: from there they are sent."""
        transformer = self._transformer
        hidden: torch.Tensor = transformer.word_embeddings_layernorm(transformer.word_embeddings(torch.tensor(ids)))
        return hidden


def load(
    model: Model,
    folder: Path,
    peers: tuple[str, ...],
    dtype: DtypeName,
    device: str,
    slots: int,
    request_timeout_s: float = 30.0,
) -> PetalsBackend:
    """Load a model's own part and join its swarm: takes seconds, starts processes, blocks. Raises ModelError.

    folder: the catalogue's, where a relative path of the model starts. peers: empty for Petals' public swarm.
    slots: sessions that may step at the same time. Open no listening socket before: a forked process would keep it.
    """
    source = _local_source(model, folder / model.path) if model.path else model.repository
    for name in ("petals", "hivemind"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # For p2pd: small messages, one after the other, cost it a quarter less on one processor than on two.
    os.environ.setdefault("GOMAXPROCS", "1")
    try:
        network = AutoDistributedModelForCausalLM.from_pretrained(
            source,
            torch_dtype=choose_dtype(dtype, device),
            request_timeout=request_timeout_s,
            **_options(model, peers),
        )
    except (OSError, ValueError, AssertionError, P2PDaemonError) as error:
        raise _model_error(model, error) from error
    try:
        tokenizer = load_tokenizer(source, model.revision, network.generation_config)
        head = _take_head(network, device)
    except (OSError, ValueError, RuntimeError) as error:
        _leave(network.transformer.h.sequence_manager)
        raise _model_error(model, error) from error
    torch.set_num_threads(choose_threads(head.weights))
    return PetalsBackend(network.eval(), tokenizer, head, slots)


def _take_head(network: Any, device: str) -> Head:
    """Norm and head, on the device. The embeddings stay on the CPU, from where hidden states are sent."""
    weight = network.lm_head.weight.to(device)
    del network.lm_head  # its weights are on the device only, but where they are the embeddings as well
    return Head(network.transformer.ln_f.to(device), weight)


def _local_source(model: Model, folder: Path) -> str:
    if not folder.is_dir():
        raise _model_error(model, f"its folder {folder} does not exist")
    # transformers 4.34 heeds use_safetensors for repositories only: from a folder it would take pickled weights too.
    if not any((folder / name).is_file() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
        raise _model_error(model, f"its folder holds no {SAFE_WEIGHTS_NAME} (pickled weights are refused)")
    if not model.dht_prefix:
        raise _model_error(model, "a model with a path needs a dht_prefix, its name in the swarm")
    return str(folder)


def _options(model: Model, peers: tuple[str, ...]) -> dict[str, Any]:
    options: dict[str, Any] = {
        "revision": model.revision,
        "active_adapter": model.adapter,
        "use_safetensors": True,
        "trust_remote_code": False,
        "max_retries": ATTEMPTS,
        "show_route": False,
    }
    if peers:
        options["initial_peers"] = list(peers)
    if model.dht_prefix:
        options["dht_prefix"] = model.dht_prefix
    return options


def _model_error(model: Model, reason: Exception | str) -> ModelError:
    first, *_ = (str(reason) or type(reason).__name__).splitlines()
    return ModelError(f"the model {model.key} cannot be loaded: {first}")


def _leave(manager: Any) -> None:
    """Leave the swarm: the thread that watches it, our connection to p2pd, and the DHT process with p2pd."""
    manager.shutdown()
    manager.ready.set()  # for a step that waits for the thread
    with contextlib.suppress(Exception):
        compat.RemoteExpertWorker.run_coroutine(manager.state.p2p.shutdown(), return_future=True).result(
            compat.CLOSE_TIMEOUT_S
        )
    manager.dht.shutdown_timeout = DHT_STOP_TIMEOUT_S
    manager.dht.shutdown()


def _translate(error: Exception, max_length: int) -> CorollaError:
    """The library's error in our words; its own may hold addresses and paths."""
    if lacks_room(error):
        return CorollaError(
            Code.CACHE_FULL,
            "The attention cache is full: the swarm has no room for a session "
            f"of {max_length} tokens now, please try again later",
        )
    return CorollaError(Code.SWARM, "The swarm did not complete a step in time, please try again later")
