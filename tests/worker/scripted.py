"""A model that writes what it is told, and checks how it is used."""

import asyncio
from collections.abc import Sequence

from shared.errors import Code, CorollaError
from shared.reports import Coverage
from worker.backend import MAX_POSITIONS, Choice, Draw
from worker.tokenizer import FastTokenizer


def weighed(draw: Draw) -> Choice:
    """What such a model says of a token that was said before: it is less likely, the higher its id is."""
    assert draw.known is not None
    return Choice(draw.known, -float(draw.known), ((draw.known, -float(draw.known)), (0, -9999.0)))


class ScriptedSession:
    """rows: all ids so far of each row; at every choice they must be the whole history, each fed once."""

    def __init__(self, backend: "ScriptedBackend", max_length: int, rows: int) -> None:
        self.max_length = max_length
        self.rows: list[list[int]] = [[] for _ in range(rows)]
        self.closed = False
        self._backend = backend
        self._holds_room = False

    @property
    def fed(self) -> list[int]:
        """What the only row was fed."""
        (only,) = self.rows
        return only

    async def step(
        self, ids: Sequence[Sequence[int]], draws: Sequence[Draw], parents: Sequence[int] | None = None
    ) -> list[Choice]:
        self._feed(ids, parents)
        self._backend.pieces.append(len(ids[0]))
        step = self._backend.steps = self._backend.steps + 1
        if step > self._backend.free_steps:
            await self._backend.released.wait()
        await asyncio.sleep(self._backend.pause_s)
        if not self._holds_room:
            self._holds_room = True
            self._backend.held += 1
            if self._backend.held > self._backend.room:
                raise CorollaError(Code.CACHE_FULL, "The attention cache is full")
        if failure := self._backend.failures.get(step, self._backend.failure):
            raise failure
        if draws:
            assert self.rows == [list(draw.ids) for draw in draws]
        return [self._backend.choose(draw) for draw in draws]

    async def total(self, ids: Sequence[int]) -> Sequence[float]:
        await self.step([ids], ())
        return [3.0 * len(ids), 0.0, 4.0 * sum(id >= 0 for id in ids)]

    async def score(self, ids: Sequence[int], draws: Sequence[Draw]) -> list[Choice]:
        await self.step([ids], ())
        assert len(ids) == len(draws)
        return [weighed(draw) for draw in draws]

    def _feed(self, ids: Sequence[Sequence[int]], parents: Sequence[int] | None) -> None:
        assert not self.closed
        assert len({len(row) for row in ids}) == 1
        assert 1 <= len(ids[0]) <= MAX_POSITIONS // len(self.rows)
        assert self.rows[0] or not parents
        before = [self.rows[parent] for parent in parents or range(len(self.rows))]
        self.rows = [[*row, *new] for row, new in zip(before, ids, strict=True)]
        assert len(self.rows[0]) <= self.max_length

    async def close(self) -> None:
        await asyncio.sleep(self._backend.pause_s)
        self.closed = True
        if self._holds_room:
            self._holds_room = False
            self._backend.held -= 1


class ScriptedBackend:
    """What is drawn follows from the position.

    script: the id at each position of every answer; scripts: of the answers in these rows. logprobs: of each token, by
    row. failure: what the next steps raise. failures: what single steps raise, by their number, from 1. steps: how many
    began; pieces: how many positions each was fed. room: how many sessions may have begun and not be closed; one that
    finds none holds some all the same, as on the servers before the one that is full. held: how many hold some.

    Steps after the first `free_steps` take for ever, until `released` is set; all take at least pause_s.
    """

    def __init__(self, tokenizer: FastTokenizer, text: str = "", *texts: str) -> None:
        self.tokenizer = tokenizer
        self.script = tokenizer.encode(text, False)
        self.scripts = {row: tokenizer.encode(each, False) for row, each in enumerate(texts, 1)}
        self.logprobs: dict[int, float] = {}
        self.free_steps = 1_000_000
        self.released = asyncio.Event()
        self.pause_s = 0.0
        self.failure: Exception | None = None
        self.failures: dict[int, Exception] = {}
        self.room = 1_000_000
        self.held = 0
        self.steps = 0
        self.pieces: list[int] = []
        self.sessions: list[ScriptedSession] = []
        self.stopped = False
        self.covered: Coverage | None = None

    def choose(self, draw: Draw) -> Choice:
        """What its row's script has here; past the end of it, what must not be heeded. Ranked, it is the best."""
        script = self.scripts.get(draw.row, self.script)
        id = script[draw.position] if draw.position < len(script) else 0
        if draw.ranked:
            others = [each for each in range(2, draw.ranked + 2) if each != id][: draw.ranked - 1]
            return Choice(id, ranked=((id, 0.0), *((each, -1.0 - each) for each in others)))
        return Choice(id, self.logprobs.get(draw.row) if draw.sampling.logprobs is not None else None)

    def open(self, max_length: int, rows: int = 1) -> ScriptedSession:
        session = ScriptedSession(self, max_length, rows)
        self.sessions.append(session)
        return session

    def coverage(self) -> Coverage | None:
        return self.covered

    async def stop(self) -> None:
        self.stopped = True
