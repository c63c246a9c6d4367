"""Attention caches that are kept from one job of a session to the next.

A cache is only ever a shortcut: what it was fed is compared with what is wanted, and where that does not fit, a new one
is fed everything.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence

from worker.backend import MAX_POSITIONS, Backend, BackendSession, Choice, Draw

# For servers to hear that room is free; one that does not answer is not waited for.
CLOSE_WAIT_S = 1.0


class Cache:
    """A backend's session, and what it was fed. Used by one job at a time.

    backend: of its model.
    name: of the client's session, whose next job may use it too; None where there is none, or no more.
    room: positions that it has room for, in all its rows.
    length: how many ids each of its rows was fed.
    """

    def __init__(self, backend: Backend, max_length: int, rows: int, name: str | None) -> None:
        self.backend = backend
        self.name = name
        self.room = rows * max_length
        self.used_at = 0.0
        self._max_length = max_length
        self._rows = rows
        self._most = max(MAX_POSITIONS // rows, 1)  # positions that one step feeds
        self._ids: Sequence[Sequence[int]] = [[]] * rows
        self._open()

    def _open(self) -> None:
        self.session: BackendSession = self.backend.open(self._max_length, self._rows)
        self.length = 0
        self._chose = False  # whether all rows are where their last tokens were chosen

    @property
    def fed(self) -> Sequence[int]:
        """What the first row was fed."""
        return self._ids[0][: self.length]

    async def feed(
        self, ids: Sequence[Sequence[int]], draws: Sequence[Draw], parents: Sequence[int] | None = None
    ) -> list[Choice]:
        """Feed the next piece of what is new in `ids` [rows][positions]. Once nothing is left of it, the tokens that
        follow in the rows; none before.

        ids: everything, what was fed before included; kept, not copied, so that they may only grow. parents: the row
        that each row goes on from, where that is not its own. Raises what the session raises.
        """
        start, end = self.length, len(ids[0])
        whole = end - start <= self._most
        if not whole:
            end = start + self._most
        piece = [row[start:end] for row in ids]
        chosen = await self.session.step(piece, draws if whole else (), parents if self._chose else None)
        self._ids, self.length, self._chose = ids, end, whole
        return chosen

    def renew(self) -> BackendSession:
        """Go on in a new session, which must be fed everything; the old one, to be closed."""
        old = self.session
        self._open()
        return old


class Sessions:
    """The table of idle caches by session id; the least recently used goes first where there are too many."""

    def __init__(self, kept: int, idle_s: float) -> None:
        self._kept = kept
        self._idle_s = idle_s
        self._idle: dict[str, Cache] = {}  # the least recently used first
        self._lent: set[Cache] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def borrow(
        self, name: str | None, backend: Backend, ids: Sequence[Sequence[int]], positions: int
    ) -> Iterator[Cache]:
        """A cache for one job that is to go on after `ids` [rows][..], with room for so many positions in each row.

        It is this session's own where that fits, which has one row; else a new one.

        Afterwards it is kept for the session; after an error, or where there is no session (None), it is closed.
        """
        cache = self._take(name, ids[0]) if name else None
        cache = cache or Cache(backend, positions, len(ids), name)
        self._lent.add(cache)
        try:
            yield cache
        except BaseException:
            cache.name = None
            raise
        finally:
            self._lent.remove(cache)
            self._put(cache)

    async def renew(self, cache: Cache, frees_room: bool) -> None:
        """Give up what failed: the cache starts again with nothing fed. frees_room: once what it gave up is closed."""
        closing = self._close(cache.renew())
        if frees_room:
            await asyncio.wait([closing], timeout=CLOSE_WAIT_S)

    async def make_room(self, backend: Backend, room: int) -> bool:
        """Free caches of this model, those that have been idle for longest, until they held room for so many positions
        together, and wait for it. Whether there was any.

        An idle cache holds as much room on the servers as one in use, and saves only time.
        """
        closing = []
        for name, cache in [each for each in self._idle.items() if each[1].backend is backend]:
            if room > 0:
                room -= cache.room
                closing.append(self._close(self._idle.pop(name).session))
        if closing:
            await asyncio.wait(closing, timeout=CLOSE_WAIT_S)
        return bool(closing)

    def drop(self, name: str) -> None:
        """The session was closed: free its cache, at once or when its job is done with it."""
        cache = self._idle.pop(name, None)
        if cache:
            self._close(cache.session)
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
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _take(self, name: str, ids: Sequence[int]) -> Cache | None:
        cache = self._idle.pop(name, None)
        # At least one id must be left to feed: only a step gives a token.
        if cache is None or (cache.length < len(ids) and ids[: cache.length] == cache.fed):
            return cache
        self._close(cache.session)
        return None

    def _put(self, cache: Cache) -> None:
        if cache.name is None:
            self._close(cache.session)
            return
        older = self._idle.pop(cache.name, None)
        if older:
            self._close(older.session)
        cache.used_at = time.monotonic()
        self._idle[cache.name] = cache
        while len(self._idle) > self._kept:
            self.drop(next(iter(self._idle)))

    def _close(self, session: BackendSession) -> asyncio.Task[None]:
        task = asyncio.create_task(session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task
