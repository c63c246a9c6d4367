"""Hidden states on their way through a swarm by Petals' own client: for versions whose insides are not as expected."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
import torch

import worker.petals_compat  # noqa: F401  before petals, which cannot be imported without it

# isort: split
from petals.client.inference_session import InferenceSession

_log = structlog.get_logger()


class PublicChain:
    """A Chain (worker.petals_chain) over Petals' InferenceSession, whose calls wait for the network: in threads.

    A cancelled step goes on in its thread until the servers answer; close() waits for it there.
    """

    def __init__(self, manager: Any, pool: ThreadPoolExecutor, max_length: int) -> None:
        self._pool = pool
        self._in_use = threading.Lock()
        self._session = InferenceSession(manager, max_length)

    async def step(self, hidden: torch.Tensor, parents: Sequence[int] | None) -> torch.Tensor:
        """See Chain."""
        order = None if parents is None else torch.tensor(parents)
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._step, hidden, order)

    async def close(self) -> None:
        """See Chain."""
        try:
            closed = self._pool.submit(self._close)
        except RuntimeError:
            return  # the backend was stopped, which ended the connections too
        await asyncio.shield(asyncio.wrap_future(closed))

    @torch.inference_mode()
    def _step(self, hidden: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
        with self._in_use:
            output: torch.Tensor = self._session.step(hidden, hypo_ids=order)
            return output

    def _close(self) -> None:
        with self._in_use:
            try:
                self._session.close()
            except Exception as error:  # of a server or the network; it counts as closed all the same
                _log.warning("session_close_failed", error=type(error).__name__)
