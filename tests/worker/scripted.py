"""A model that writes what it is told, and checks how it is used."""

import asyncio
from collections.abc import Sequence

from worker.backend import Draw
from worker.tokenizer import FastTokenizer


class ScriptedSession:
    """fed: all ids so far; they must always be the whole history, each fed once."""

    def __init__(self, backend: "ScriptedBackend", max_length: int) -> None:
        self.max_length = max_length
        self.fed: list[int] = []
        self.closed = False
        self._backend = backend

    async def step(self, ids: Sequence[int], draw: Draw) -> int:
        assert not self.closed
        assert ids
        self.fed.extend(ids)
        assert self.fed == list(draw.history)
        assert len(self.fed) <= self.max_length
        self._backend.steps += 1
        if self._backend.steps > self._backend.free_steps:
            await self._backend.released.wait()
        await asyncio.sleep(self._backend.pause_s)
        if self._backend.failure:
            raise self._backend.failure
        return self._backend.script[draw.position]

    async def close(self) -> None:
        self.closed = True


class ScriptedBackend:
    """script: the id at each position of every answer. failure: what the next steps raise. steps: how many began.

    Steps after the first `free_steps` take for ever, until `released` is set; all take at least pause_s.
    """

    def __init__(self, tokenizer: FastTokenizer, text: str = "") -> None:
        self.tokenizer = tokenizer
        self.script = tokenizer.encode(text, False)
        self.free_steps = 1_000_000
        self.released = asyncio.Event()
        self.pause_s = 0.0
        self.failure: Exception | None = None
        self.steps = 0
        self.sessions: list[ScriptedSession] = []
        self.stopped = False

    def open(self, max_length: int) -> ScriptedSession:
        session = ScriptedSession(self, max_length)
        self.sessions.append(session)
        return session

    async def stop(self) -> None:
        self.stopped = True
