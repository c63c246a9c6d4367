"""Stacks to break: real processes, a model whose every token is known, and a proxy before the broker.

COROLLA_FAULTS=full runs each test as often as its criterion asks, with a new seed each time; else it is a short form,
always with the same one. COROLLA_SEED repeats a run.
"""

import asyncio
import contextlib
import dataclasses
import functools
import os
import random
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults.proxy import Proxy
from tests.faults.reader import Reader
from tests.resting import forget, leftovers, spoiled
from tests.services import Gateway, Service, Worker
from tests.valkey import Valkey
from tests.waiting import until, until_async

FULL = os.environ.get("COROLLA_FAULTS") == "full"
SEED = int(os.environ.get("COROLLA_SEED", random.randrange(2**31) if FULL else 1))
# In the short form all times of leases are shorter too.
LEASE_S = 8.0 if FULL else 2.0
# For what is repeated so often that it must not last long: long enough for its parts.
SHORT_LEASE_S = 2.0
STEP_S = 0.02
Tell = Callable[[str], None]
REST_S = 20.0
# Bounds of time are those of a quiet machine; the short form runs beside whatever else goes on. It still sees a repair
# that comes with a gateway's next look (2 s) where it should come at once. Counts and ratios are what they are.
BUSY = 1 if FULL else 5
# How often what has such a bound is tried.
ATTEMPTS = 1 if FULL else 3
# Of an answer whose worker is lost without a word: its prefill is one step here.
SILENCE_S = LEASE_S + BUSY * (2 + STEP_S)
FIGURES = pytest.StashKey[list[str]]()
full_only = pytest.mark.skipif(not FULL, reason="only make faults has the time")
CATALOG = """
[[families]]
name = "Oracle"
[[families.models]]
repository = "corolla/oracle"
name = "Oracle"
backend = "oracle"
step_ms = {step_ms}
"""


def pytest_report_header() -> str:
    """How to repeat the run."""
    return f"faults: {'full' if FULL else 'short'}, COROLLA_SEED={SEED}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was measured."""
    for line in config.stash.get(FIGURES, []):
        terminalreporter.write_line(line)


class MissedBound(AssertionError):
    """Something took longer than it may."""


def within(bound: float, found: float) -> None:
    """Raise MissedBound where more was found."""
    if found > bound:
        raise MissedBound(f"{found} is more than {bound}")


def bounded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """A test that may miss a bound because of what else goes on; but not each time. All else must hold each time."""

    @functools.wraps(test)
    async def try_often(*args: Any, **fixtures: Any) -> None:
        for _ in range(ATTEMPTS - 1):
            with contextlib.suppress(MissedBound):
                return await test(*args, **fixtures)
        return await test(*args, **fixtures)

    return try_often


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Adds a line to what was measured."""
    lines = request.config.stash.setdefault(FIGURES, [])
    return lambda text: lines.append(f"{request.node.name}: {text}")


@pytest.fixture
def dice() -> random.Random:
    """What is random in a test follows from the seed of the run."""
    return random.Random(SEED)


@dataclasses.dataclass
class Stack:
    """A broker behind a proxy, gateways and workers over it."""

    valkey: Valkey
    proxy: Proxy
    gateways: list[Gateway]
    workers: list[Worker]

    @property
    def urls(self) -> list[str]:
        """WebSocket addresses of the gateways."""
        return [gateway.ws_url for gateway in self.gateways]

    def readers(self, count: int, tokens: int, first: int = 1) -> list[Reader]:
        """So many answers to read, each with a seed of its own."""
        return [Reader(self.urls, seed, tokens) for seed in range(first, first + count)]

    def owned(self) -> dict[str, set[str]]:
        """Jobs that run, by the name of their worker."""
        client = self.valkey.client
        found: dict[str, set[str]] = {worker.registered: set() for worker in self.workers}
        for job in (str(key, "ascii").removeprefix("{p}:job:") for key in client.scan_iter("{p}:job:*")):
            state, owner = client.hmget(f"{{p}}:job:{job}", "state", "owner")
            if state == b"running" and isinstance(owner, bytes):
                found.setdefault(str(owner, "ascii"), set()).add(job)
        return found

    def given_to(self, name: str) -> set[str]:
        """Jobs that the worker of that name was given by the broker and has not ended, those that it has not begun
        included."""
        client: Any = self.valkey.client
        found: set[str] = set()
        for stream in client.scan_iter("{p}:ready:*"):
            for row in client.xpending_range(stream, "workers", "-", "+", 1000, name):
                found |= {str(fields[b"job"], "ascii") for _, fields in client.xrange(stream, *2 * [row["message_id"]])}
        return found

    def jobs(self) -> int:
        """Jobs that the broker knows, finished ones included."""
        return sum(1 for _ in self.valkey.client.scan_iter("{p}:job:*"))

    @contextlib.contextmanager
    def stopped(self, services: Sequence[Service]) -> Iterator[None]:
        """These do nothing, as if their machine hung."""
        for service in services:
            service.send(signal.SIGSTOP)
        try:
            yield
        finally:
            for service in services:
                service.send(signal.SIGCONT)

    async def counted(self, name: str) -> float:
        """The sum of a counter of all gateways."""
        # In threads: what they ask the broker passes through the proxy, which is in this one.
        return sum(await asyncio.gather(*(asyncio.to_thread(gateway.counted, name) for gateway in self.gateways)))

    def waiting(self) -> int:
        """Jobs that were accepted and are not yet offered to workers."""
        count = self.valkey.client.hget("{p}:waiting", "*")
        return int(count) if isinstance(count, bytes) else 0

    def dead(self) -> list[str]:
        """Jobs that were given up; they are forgotten."""
        rows: Any = self.valkey.client.xrange("{p}:dead")
        self.valkey.client.delete("{p}:dead")
        return [str(fields[b"job"], "ascii") for _, fields in rows]

    def leftovers(self) -> set[str]:
        """What a system at rest does not leave in the broker."""
        return leftovers(self.valkey.client, self.workers)

    async def settled(self) -> set[str]:
        """What is left once nothing changes any more; waits for nothing to be left."""
        with contextlib.suppress(AssertionError):
            await until_async(lambda: not self.leftovers(), REST_S)
        return self.leftovers()

    async def rest(self) -> None:
        """Assert that nothing is left, and that every job ended once; then forget them."""
        assert await self.settled() == set()
        assert spoiled(self.valkey.client) == {}
        forget(self.valkey.client)

    def kill(self) -> None:
        """End all of it."""
        for service in (*self.gateways, *self.workers):
            service.kill()
        self.valkey.stop()
        self.valkey.client.close()


@contextlib.asynccontextmanager
async def running_stack(
    folder: Path,
    workers: int = 2,
    gateways: int = 2,
    step_ms: int = 20,
    slots: int = 32,
    lease_s: float = LEASE_S,
    oddities: Sequence[str] = (),
    proxied: bool = True,
    **settings: str | int | float,
) -> AsyncIterator[Stack]:
    """All of it, ready, with these settings of the gateways; in the end nothing may be left in the broker.

    oddities: arguments of tests.faults.odd_worker for each worker, where they are to be such. proxied: links may be
    spoiled; those that are not cost this process nothing, which has other things to do in tests of load.
    """
    folder = Path(tempfile.mkdtemp(dir=folder))
    valkey = Valkey(folder)
    valkey.start()
    catalog, files = folder / "catalog.toml", str(folder / "files")
    catalog.write_text(CATALOG.format(step_ms=step_ms))
    async with Proxy(valkey.port) as proxy:
        url = proxy.url if proxied else valkey.url
        stack = Stack(
            valkey,
            proxy,
            [Gateway(folder / f"gateway-{n}.log", url, catalog, files, **settings) for n in range(gateways)],
            [
                Worker(
                    folder / f"worker-{n}.log",
                    url,
                    catalog,
                    slots=slots,
                    lease_ms=int(1000 * lease_s),
                    beat_s=lease_s / 4,
                    reap_s=lease_s / 8,
                )
                for n in range(workers)
            ],
        )
        for worker, oddity in zip(stack.workers if oddities else (), oddities, strict=True):
            worker.name, worker.arguments = "tests.faults.odd_worker", oddity.split()
        try:
            await start(stack)
            yield stack
            await stack.rest()
        finally:
            stack.kill()


async def start(stack: Stack) -> None:
    """Start everything that does not run, and wait until the gateways are ready."""
    if not stack.valkey.runs:
        await asyncio.to_thread(stack.valkey.start)
    for service in (*stack.workers, *stack.gateways):
        if not service.runs:
            await asyncio.to_thread(service.start)
    for gateway in stack.gateways:
        await asyncio.to_thread(until, gateway.is_ready, 60)


@pytest.fixture(scope="package")
async def _stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture
async def stack(_stack: Stack) -> AsyncIterator[Stack]:
    """Two workers, two gateways, 20 ms a token; all of it runs, and nothing is left of the test before."""
    await start(_stack)
    yield _stack
    _stack.proxy.heal()
    await start(_stack)
    await _stack.rest()
