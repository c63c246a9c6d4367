"""The backend `petals`: blocks on the servers of a swarm; tokenizer, embeddings and head here.

A step is: ids → word embeddings → inference session → final norm → head, for the last position → the next token.
"""

import asyncio
import contextlib
import logging
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog
import torch

import worker.petals_compat as compat  # before petals, which cannot be imported without it

# isort: split
from hivemind.p2p import P2PDaemonError
from petals import AutoDistributedModelForCausalLM
from petals.client.inference_session import InferenceSession
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from shared.catalog import Model
from shared.errors import Code, CorollaError
from worker.backend import Draw
from worker.devices import DtypeName, choose_dtype, choose_threads
from worker.sampling import choose
from worker.tokenizer import FastTokenizer, load_tokenizer

RETRY_DELAYS_S = (0.0, 1.0)  # before the second and the third attempt of a step
LOOKUP_ATTEMPTS = 1  # Petals' own attempts at everything; its default is to go on for ever
PIECE = 512  # positions of a prompt that are fed at once, so that a cancelled one stops soon
DHT_STOP_TIMEOUT_S = 10.0

_NO_ROOM = ("attention cache", "could not allocate", "cannot allocate", "allocationfailed")

_log = structlog.get_logger()


class ModelError(Exception):
    """A model cannot be loaded; the text is one line for the operator."""


class PetalsSession:
    """An attention cache on the servers. Threads of the pool use it, one at a time."""

    def __init__(self, model: Any, head_lock: threading.Lock, pool: ThreadPoolExecutor, max_length: int) -> None:
        self._model = model
        self._head_lock = head_lock
        self._pool = pool
        self._max_length = max_length
        self._fed: list[int] = []
        self._in_use = threading.Lock()
        self._ending = threading.Event()
        self._closed: Future[None] | None = None
        self._cache = self._new_cache()

    async def step(self, ids: Sequence[int], draw: Draw) -> int:
        """Feed `ids` and choose the next token; see BackendSession.

        A cancelled step goes on in its thread until the servers answer; close() waits for it there.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._step, tuple(ids), draw)

    async def close(self) -> None:
        """Free the cache, on the servers too; see BackendSession."""
        self._ending.set()
        if self._closed is None:
            try:
                self._closed = self._pool.submit(self._close)
            except RuntimeError:
                return  # the backend was stopped, which ended the connections too
        await asyncio.shield(asyncio.wrap_future(self._closed))

    def abandon(self) -> None:
        """Let a step under way make no further attempt."""
        self._ending.set()

    def _step(self, ids: tuple[int, ...], draw: Draw) -> int:
        with self._in_use, torch.inference_mode():
            hidden = self._advance(ids)
            with self._head_lock:
                logits = self._model.lm_head(self._model.transformer.ln_f(hidden))
            return choose(logits, [draw])[0]

    def _advance(self, ids: tuple[int, ...]) -> torch.Tensor:
        """Feed `ids`, over other servers where some fail; the hidden state of the last one, [1, hidden size].

        Petals 2.2 cannot move a session that has a history ("Broken input cache"). So a new one is fed everything.
        """
        feed = ids
        for delay_s in (*RETRY_DELAYS_S, None):
            try:
                hidden = self._feed(feed)
                self._fed.extend(ids)
                return hidden
            except Exception as error:  # what a server, the network or the library raises has no common root
                _log.warning("swarm_step_failed", error=type(error).__name__, fed=len(self._fed), feed=len(feed))
                if delay_s is None or self._ending.wait(delay_s):
                    raise _translate(error, self._max_length) from error
            self._pool.submit(_close_cache, self._cache)  # a server that hangs makes this take its time
            self._cache = self._new_cache()
            feed = (*self._fed, *ids)
        raise AssertionError("the last attempt returns or raises")

    def _feed(self, ids: tuple[int, ...]) -> torch.Tensor:
        transformer = self._model.transformer
        for start in range(0, len(ids), PIECE):
            if self._ending.is_set():
                raise InterruptedError
            piece = torch.tensor([ids[start : start + PIECE]], device=transformer.word_embeddings.weight.device)
            embedded = transformer.word_embeddings_layernorm(transformer.word_embeddings(piece))
            hidden: torch.Tensor = self._cache.step(embedded)[:, -1]
        if not torch.isfinite(hidden).all():
            raise FloatingPointError
        return hidden

    def _new_cache(self) -> Any:
        return InferenceSession(self._model.transformer.h.sequence_manager, self._max_length)

    def _close(self) -> None:
        with self._in_use:
            _close_cache(self._cache)


class PetalsBackend:
    """One model of a swarm. Made by `load`."""

    def __init__(self, model: Any, tokenizer: FastTokenizer, slots: int) -> None:
        self.tokenizer = tokenizer
        self._model = model
        self._sessions: weakref.WeakSet[PetalsSession] = weakref.WeakSet()
        self._head_lock = threading.Lock()  # one product at a time: each uses all the threads it may
        # A session may have a step under way, and a close that waits for a cancelled step or for a server that hangs.
        self._pool = ThreadPoolExecutor(2 * slots, thread_name_prefix="petals")

    def open(self, max_length: int) -> PetalsSession:
        """A session with room for `max_length` ids; contacts no server before its first step."""
        session = PetalsSession(self._model, self._head_lock, self._pool, max_length)
        self._sessions.add(session)
        return session

    async def stop(self) -> None:
        """End the processes and connections that belong to the model. A step under way fails within its time-out."""
        for session in self._sessions:
            session.abandon()
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        _leave(self._model.transformer.h.sequence_manager)


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
        network.to(device).eval()
    except (OSError, ValueError, RuntimeError) as error:
        _leave(network.transformer.h.sequence_manager)
        raise _model_error(model, error) from error
    torch.set_num_threads(choose_threads(network.lm_head.weight.numel()))
    return PetalsBackend(network, tokenizer, slots)


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
        "max_retries": LOOKUP_ATTEMPTS,
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


def _close_cache(cache: Any) -> None:
    try:
        cache.close()
    except Exception as error:  # as in _advance; it counts as closed all the same
        _log.warning("session_close_failed", error=type(error).__name__)


def _translate(error: Exception, max_length: int) -> CorollaError:
    """The library's error in our words; its own may hold addresses and paths."""
    text = f"{type(error).__name__} {error}".lower()
    if any(sign in text for sign in _NO_ROOM):
        return CorollaError(
            Code.CACHE_FULL,
            "The attention cache is full: the swarm has no room for a session "
            f"of {max_length} tokens now, please try again later",
        )
    return CorollaError(Code.SWARM, "The swarm did not complete a step in time, please try again later")
