"""Attention caches that are kept from one job of a session to the next.

A cache is only ever a shortcut: what it was fed is compared with what is wanted, and where that does not fit, a new one
is fed everything.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence

from shared.sampling import SamplingParams
from worker.backend import Backend, BackendSession, Draw


@dataclasses.dataclass(eq=False)
class Cache:
    """A backend's session, and the ids that it was fed. Used by one job at a time.

    name: of the client's session, whose next job may use it too; None where there is none, or no more.
    """

    session: BackendSession
    name: str | None
    fed: list[int] = dataclasses.field(default_factory=list)
    used_at: float = 0.0

    async def next(self, ids: Sequence[int], sampling: SamplingParams, position: int) -> int:
        """Feed what is new in `ids` and choose the token that follows them. Raises what the session raises."""
        new = ids[len(self.fed) :]
        chosen = await self.session.step(new, Draw(sampling, ids, position))
        self.fed.extend(new)
        return chosen


class Sessions:
    """The table of idle caches by session id; the least recently used goes first where there are too many."""

    def __init__(self, kept: int, idle_s: float) -> None:
        self._kept = kept
        self._idle_s = idle_s
        self._idle: dict[str, Cache] = {}  # the least recently used first
        self._lent: set[Cache] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def borrow(self, name: str | None, backend: Backend, ids: Sequence[int], positions: int) -> Iterator[Cache]:
        """A cache for one job that is to go on after `ids`: this session's own where that fits, else a new one.

        Afterwards it is kept for the session; after an error, or where there is no session (None), it is closed.
        """
        cache = self._take(name, ids) if name else None
        cache = cache or Cache(backend.open(positions), name)
        self._lent.add(cache)
        try:
            yield cache
        except BaseException:
            cache.name = None
            raise
        finally:
            self._lent.remove(cache)
            self._put(cache)

    def drop(self, name: str) -> None:
        """The session was closed: free its cache, at once or when its job is done with it."""
        cache = self._idle.pop(name, None)
        if cache:
            self._close(cache)
        for lent in self._lent:
            if lent.name == name:
                lent.name = None

    def drop_idle(self) -> None:
        """Free what nobody has used for a while."""
        oldest = time.monotonic() - self._idle_s
        for name in [name for name, cache in self._idle.items() if cache.used_at < oldest]:
            self.drop(name)

    async def close(self) -> None:
        """Free everything, and wait for it."""
        for name in list(self._idle):
            self.drop(name)
        await asyncio.gather(*self._closing)

    def _take(self, name: str, ids: Sequence[int]) -> Cache | None:
        cache = self._idle.pop(name, None)
        # At least one id must be left to feed: only a step gives a token.
        if cache is None or (len(cache.fed) < len(ids) and list(ids[: len(cache.fed)]) == cache.fed):
            return cache
        self._close(cache)
        return None

    def _put(self, cache: Cache) -> None:
        if cache.name is None:
            self._close(cache)
            return
        older = self._idle.pop(cache.name, None)
        if older:
            self._close(older)
        cache.used_at = time.monotonic()
        self._idle[cache.name] = cache
        while len(self._idle) > self._kept:
            self.drop(next(iter(self._idle)))

    def _close(self, cache: Cache) -> None:
        task = asyncio.create_task(cache.session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
