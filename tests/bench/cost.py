"""`python -m tests.bench.cost`: what a token, a job, an idle session and a worker cost the broker.

First with whole processes, a gateway and a worker, then with the broker's operations alone while 10, 100 and 1,000
workers with 32 slots are registered: what their signs of life take of the one core that the broker has, and what is
left for jobs and tokens.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import platform
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import uvloop

from shared.broker import Broker
from shared.heart import Heart
from shared.messages import FinishReason, JobFinished, JobRequest, Token
from shared.records import Append, Bounds, Claim, Registration, Submission
from shared.sampling import SamplingParams
from tests.bench.meter import Work, memory, work
from tests.bench.readers import read_all
from tests.bench.scale import Stack, running
from tests.valkey import Valkey

SLOTS = 32
MODEL = "corolla/oracle"
GATEWAY = "bench"
QUIET_S = 5.0
JOBS, SHORT, LONG = 32, 1, 300  # and their tokens
SESSIONS, TURN = 50, 100
WORKERS = (10, 100, 1_000)
ROUNDS = 200
REST_MS = 60_000
BOUNDS = Bounds(1_000_000, 1_000_000)
TOKEN, END = Token(300, "abcd "), JobFinished(FinishReason.STOP)


class BrokenError(Exception):
    """The broker did not give what it must."""


@dataclasses.dataclass(frozen=True)
class Whole:
    """With a gateway and a worker. idle: of both, per second; job: without tokens; session: an idle one, per second;
    bytes in memory: of an ended job with one token, of one with LONG tokens, of an idle session, of a token in it."""

    idle: Work
    job: Work
    token: Work
    session: Work
    short_job_bytes: float
    long_job_bytes: float
    session_bytes: float
    session_token_bytes: float


@dataclasses.dataclass(frozen=True)
class Crowd:
    """With so many workers: the broker's microseconds for each operation, and what follows. beat: with all slots in
    use; look: for lost jobs; skip: where another worker has just looked. upkeep_percent: of a core, for all signs of
    life and looks; jobs_per_s, tokens_per_s: that the rest of the core is enough for, jobs without tokens and tokens
    without jobs."""

    workers: int
    beat_us: float
    look_us: float
    skip_us: float
    job_us: float
    token_us: float
    upkeep_percent: float
    jobs_per_s: float
    tokens_per_s: float


def measure_whole(stack: Stack) -> Whole:
    """A gateway and a worker, with nothing to do, with jobs and with sessions."""
    broker, url = stack.valkey.client, stack.gateways[0].url
    uvloop.run(read_all([url], 4, 5))
    with _metered(broker) as idle:
        time.sleep(QUIET_S)
    each_s = idle[0].over(QUIET_S)
    sums, sizes = [], []
    for tokens in (SHORT, LONG):
        before, began = _ended_jobs(broker), time.monotonic()
        with _metered(broker) as spent:
            uvloop.run(read_all([url], JOBS, tokens))
        sums.append(spent[0].less(each_s, time.monotonic() - began).over(JOBS))
        sizes.append((_ended_jobs(broker) - before) / JOBS)
    token = (sums[1] - sums[0]).over(LONG - SHORT)
    kept = _open_sessions(url, broker)
    with _metered(broker) as quiet:
        time.sleep(QUIET_S)
    session = (quiet[0].over(QUIET_S) - each_s).over(SESSIONS)
    job = sums[0].less(token, SHORT)
    return Whole(each_s, job, token, session, sizes[0], sizes[1], kept[0], kept[1])


@contextlib.contextmanager
def _metered(client: Any) -> Iterator[list[Work]]:
    """What the broker does during the block, after it; what asking for it takes is left out."""
    asking = work(client)
    before = work(client)
    found: list[Work] = []
    yield found
    found.append((work(client) - before) - (before - asking))


def _ended_jobs(client: Any) -> int:
    return sum(memory(client, pattern)[1] for pattern in ("*job:*", "*log:*"))


def _open_sessions(url: str, client: Any) -> tuple[float, float]:
    """Open sessions with TURN tokens each; bytes of one, and of a token in it."""
    with httpx.Client(base_url=f"{url}/api/v1", timeout=60) as caller:
        ids = [
            caller.post("/open_inference_session", data={"max_length": "512"}).json()["session_id"]
            for _ in range(SESSIONS)
        ]
        empty = memory(client, "*session:*")[1] / SESSIONS

        def turn(id: str) -> None:
            form = {"session_id": id, "inputs": "hi", "max_new_tokens": str(TURN)}
            if not caller.post("/generate", data=form).json()["ok"]:
                raise BrokenError("a session gave no answer")

        with ThreadPoolExecutor(SESSIONS) as pool:
            list(pool.map(turn, ids))
    full = memory(client, "*session:*")[1] / SESSIONS
    return full, (full - empty) / (TURN + len("hi"))


class CrowdMeter:
    """Operations at a broker that knows so many workers."""

    def __init__(self, valkey: Valkey, broker: Broker, workers: int) -> None:
        self._valkey = valkey
        self._broker = broker
        self._workers = [Registration(f"w{number}", (MODEL,), SLOTS) for number in range(workers)]

    async def measure(self) -> Crowd:
        """All of it."""
        # Where the broker has just started, nobody looks for lost jobs.
        await asyncio.sleep(self._broker.timing.lease_ms / 1000 + 2)
        await self._register()
        token_us, beat_us = await self._full_worker()
        await self._register()
        look_us = await self._us(functools.partial(self._look, 0), ROUNDS)
        skip_us = await self._us(functools.partial(self._look, REST_MS), ROUNDS)
        await self._register()
        job_us = await self._us(self._job, ROUNDS)
        timing = self._broker.timing
        number = len(self._workers)
        upkeep = number * (beat_us / timing.beat_s + skip_us / timing.reap_s) + look_us / timing.reap_s
        left_us = max(1e6 - upkeep, 0.0)
        return Crowd(
            number, beat_us, look_us, skip_us, job_us, token_us, upkeep / 1e4, left_us / job_us, left_us / token_us
        )

    async def _register(self) -> None:
        """All workers are alive."""
        for who in self._workers:
            await self._broker.claim(who, SLOTS, 0)

    async def _us(self, operation: Callable[[], Awaitable[None]], times: int) -> float:
        """The broker's CPU time of one, microseconds."""
        with _metered(self._valkey.client) as spent:
            for _ in range(times):
                await operation()
        return spent[0].cpu_us / times

    async def _look(self, rest_ms: int) -> None:
        await self._broker.reap(rest_ms)
        await self._broker.sweep()

    async def _job(self) -> None:
        who = self._workers[0]
        await self._submit()
        (claim,) = await self._broker.claim(who, SLOTS, 0)
        await self._broker.append([Append(claim.job, claim.epoch, 1, (), END)])

    async def _submit(self) -> None:
        request = JobRequest(MODEL, SamplingParams(), "hi", max_new_tokens=9)
        await self._broker.submit(Submission(secrets.token_hex(16), request, GATEWAY, 600_000), BOUNDS)

    async def _full_worker(self) -> tuple[float, float]:
        """Of a token, where all slots of a worker get one at a time, and of the worker's beat."""
        who = self._workers[0]
        for _ in range(SLOTS):
            await self._submit()
        claims: list[Claim] = []
        while len(claims) < SLOTS:
            found = await self._broker.claim(who, SLOTS - len(claims), 0)
            if not found:
                raise BrokenError("jobs were submitted, but cannot be claimed")
            claims += found
        seqs = iter(range(1, 1_000_000))

        async def step() -> None:
            seq = next(seqs)
            answers = await self._broker.append([Append(each.job, each.epoch, seq, (TOKEN,)) for each in claims])
            if {answer.status for answer in answers} != {"ok"}:
                raise BrokenError("an append was refused")

        token_us = await self._us(step, ROUNDS) / SLOTS
        heart = Heart(self._valkey.url, who)
        leases = [(claim.job, claim.epoch) for claim in claims]

        async def beat() -> None:
            heart.beat(leases, 0)

        beat_us = await self._us(beat, ROUNDS)
        heart.close()
        last = next(seqs)
        await self._broker.append([Append(each.job, each.epoch, last, (), END) for each in claims])
        return token_us, beat_us


@contextlib.asynccontextmanager
async def listening(broker: Broker) -> AsyncIterator[None]:
    """Somebody hears what is published, as a gateway does."""
    subscribed = asyncio.Event()

    async def hear() -> None:
        async for _ in broker.subscribe(GATEWAY):
            subscribed.set()

    hearing = asyncio.create_task(hear())
    try:
        await subscribed.wait()
        yield
    finally:
        hearing.cancel()


async def measure_crowd(workers: int) -> Crowd:
    """At a broker of its own."""
    with tempfile.TemporaryDirectory() as name:
        valkey = Valkey(Path(name))
        valkey.start()
        try:
            async with Broker(valkey.url) as broker, listening(broker):
                return await CrowdMeter(valkey, broker, workers).measure()
        finally:
            valkey.client.close()
            valkey.stop()


def as_table(whole: Whole, crowds: list[Crowd]) -> str:
    """For people to read."""
    lines = [f"{len(os.sched_getaffinity(0))} cores, python {platform.python_version()}"]
    names = [field.name for field in dataclasses.fields(Work)]
    lines.append(" " * 34 + "".join(f"{name:>12}" for name in names))
    rows = {
        "gateway and worker, idle, a second": whole.idle,
        "job, without its tokens": whole.job,
        "token": whole.token,
        "idle session, a second": whole.session,
    }
    lines += [
        f"{name:<34}" + "".join(f"{each:>12.2f}" for each in dataclasses.astuple(row)) for name, row in rows.items()
    ]
    lines.append(
        f"bytes kept: ended job of one token {whole.short_job_bytes:.0f}, of {LONG} tokens {whole.long_job_bytes:.0f}; "
        f"session {whole.session_bytes:.0f}, token in it {whole.session_token_bytes:.1f}"
    )
    lines.append("".join(f"{field.name:>15}" for field in dataclasses.fields(Crowd)))
    lines += ["".join(f"{each:>15.5g}" for each in dataclasses.astuple(crowd)) for crowd in crowds]
    return "\n".join(lines)


def main() -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.cost", description="Measure what things cost the broker."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    with running(1, 1, SLOTS) as stack:
        whole = measure_whole(stack)
    crowds = [asyncio.run(measure_crowd(workers)) for workers in WORKERS]
    if options.json:
        print(json.dumps({"whole": dataclasses.asdict(whole), "crowds": list(map(dataclasses.asdict, crowds))}))
    else:
        print(as_table(whole, crowds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
