"""A client that reads one long answer over whatever happens, and checks every byte of it."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from tests.dialogue import Dialogue, Reply, dialogue
from tests.waiting import until_async
from worker.oracle_backend import text

TOKEN_CHARS = 5
PAUSE_S = 0.05
LOST = (OSError, EOFError, InvalidHandshake, InvalidMessage)


@dataclasses.dataclass
class Reader:
    """One answer of `tokens` tokens with that seed. urls: of gateways, tried in turn; hits: connections lost; key: the
    client's, where gateways want one.

    silences: (from, to) on the clock of time.monotonic, between tokens. failure: what the server said was wrong.
    codes: of the closes that came (RFC 6455, 7.4.1); 1006 where the connection just broke.
    resumed_s: from each loss of the connection to the next token.
    """

    urls: Sequence[str]
    seed: int
    tokens: int
    key: str = ""
    got: str = ""
    hits: int = 0
    ended: bool = False
    job: str | None = None
    failure: str | None = None
    codes: list[int] = dataclasses.field(default_factory=list)
    resumed_s: list[float] = dataclasses.field(default_factory=list)
    silences: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    _session: str | None = None
    _after: int = 0
    _heard: float = 0.0
    _lost: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether the text is what it must be, to the byte."""
        return self.failure is None and self.got == text(self.seed, 0, self.tokens)

    @property
    def position(self) -> int:
        """Tokens that have come."""
        return len(self.got) // TOKEN_CHARS

    @property
    def silence_s(self) -> float:
        """The longest one."""
        return max((end - begin for begin, end in self.silences), default=0.0)

    async def read(self) -> None:
        """Read it, and come back wherever the connection is lost, at the next gateway."""
        self._heard = time.monotonic()
        while not self.ended:
            url = self.urls[(self.seed + self.hits) % len(self.urls)]
            try:
                async with self._dialogue(url, self.key) as socket:
                    async for reply in self._replies(socket):
                        self._take(reply)
            except ConnectionClosed as closed:
                self.codes.append(closed.rcvd.code if closed.rcvd else 1006)
            except LOST:
                pass  # the gateway is away, or cannot open a session
            if not self.ended:
                self.hits += 1
                self._lost = self._lost or time.monotonic()
                await asyncio.sleep(PAUSE_S)

    def silences_since(self, moment: float) -> bool:
        """Whether a token has come since then."""
        return bool(self.silences) and self.silences[-1][1] > moment

    async def trespass(self, key: str) -> Reply | None:
        """What somebody with another key hears who asks for this answer; None where the link broke, or there is no
        answer at this moment."""
        if self.job is None or self.ended:
            return None
        with contextlib.suppress(ConnectionClosed, *LOST):
            async with self._dialogue(self.urls[0], key) as socket:
                await socket.send({"type": "resume", "session_id": self._session, "job_id": self.job, "after": 0})
                return await socket.receive()
        return None

    @staticmethod
    def _dialogue(url: str, key: str) -> contextlib.AbstractAsyncContextManager[Dialogue]:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return dialogue(url, ping_interval=None, additional_headers=headers)

    async def _replies(self, socket: Dialogue) -> AsyncIterator[Reply]:
        if self.job is None:
            opened = await socket.open(max_length=self.tokens + 100, resumable=True)
            if not opened["ok"]:
                raise ConnectionError(opened["traceback"])
            self._session = opened["session_id"]
            async for reply in socket.generate(inputs="hi", max_new_tokens=1, stop_sequence=self._stop, seed=self.seed):
                yield reply
        else:
            await socket.send({"type": "resume", "session_id": self._session, "job_id": self.job, "after": self._after})
            async for reply in socket.replies():
                yield reply

    @property
    def _stop(self) -> str:
        # Two tokens: one alone comes by chance in one answer of a hundred before its end.
        return text(self.seed, self.tokens - 2, 2)

    def _take(self, reply: dict[str, Any]) -> None:
        now = time.monotonic()
        if self._lost:
            self.resumed_s.append(now - self._lost)
            self._lost = 0.0
        if not reply["ok"]:
            self.failure, self.ended = reply["traceback"], True
            return
        self.job, self._after = reply["job_id"], reply["seq"]
        self.got += reply["outputs"]
        self.silences.append((self._heard, now))
        self._heard = now
        self.ended = reply["stop"]


@contextlib.asynccontextmanager
async def reading(
    readers: Sequence[Reader], position: int = 5, timeout_s: float = 120, whole: bool = True
) -> AsyncIterator[None]:
    """Read all of them at the same time; the block begins when each has so many tokens.

    Afterwards every one must have come to its end, and be exact, unless `whole` is false.
    """
    async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(reader.read())
        await until_async(lambda: all(reader.position >= position or reader.ended for reader in readers), timeout_s)
        yield
    if whole:
        check(readers)


async def read_all(readers: Sequence[Reader]) -> None:
    """Read all of them, without faults meanwhile."""
    async with reading(readers):
        pass


def check(readers: Sequence[Reader]) -> None:
    """Every answer must be exact."""
    wrong = [(reader.seed, reader.position, reader.failure) for reader in readers if not reader.exact]
    assert not wrong, f"{len(wrong)} of {len(readers)} answers are not exact (seed, tokens, failure): {wrong[:5]}"


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies; 0 where there are none."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def spread(seconds: Sequence[float]) -> str:
    """How long something took, for people."""
    return f"{1000 * quantile(seconds, 0.5):.0f} ms (p50), {1000 * quantile(seconds, 0.99):.0f} ms (p99)"
