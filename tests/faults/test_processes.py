"""Workers and gateways are killed, stopped and told to leave while answers are read."""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.dialogue import dialogue
from tests.faults.asker import Asker
from tests.faults.conftest import (
    BUSY,
    FULL,
    SHORT_LEASE_S,
    SILENCE_S,
    Stack,
    Tell,
    bounded,
    running_stack,
    start,
    within,
)
from tests.faults.reader import Reader, check, quantile, reading, spread
from tests.services import Gateway, Worker
from tests.waiting import until_async
from worker.oracle_backend import text

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1500)]

KILLED = 8 if FULL else 2
KILLS = 200 if FULL else 2
STOPS = 50 if FULL else 1
# Where nobody may wait for one: a quarter of it is far longer than what leaving takes.
LONG_LEASE_S = 32.0


@contextlib.asynccontextmanager
async def _kept_reading(stack: Stack, streams: int, tokens: int) -> AsyncIterator[list[Reader]]:
    """So many answers at every moment of the block, each new one when one has ended; all that were read."""
    read: list[Reader] = []
    done = asyncio.Event()

    async def follow(number: int) -> None:
        while not done.is_set():
            reader = Reader(stack.urls, 1000 * number + len(read), tokens)
            read.append(reader)
            await reader.read()

    async with asyncio.TaskGroup() as group:
        for number in range(1, streams + 1):
            group.create_task(follow(number))
        yield read
        done.set()
    check(read)


async def _kill_one_that_works(stack: Stack, dice: random.Random) -> tuple[float, set[str]]:
    """Kill and restart a worker in the midst of its jobs: when that was, and the jobs that it had."""
    while not any((owned := stack.owned()).values()):
        await asyncio.sleep(0.01)
    victim = dice.choice([worker for worker in stack.workers if owned[worker.registered]])
    moment = time.monotonic()
    await asyncio.to_thread(victim.kill)
    # What it had claimed meanwhile included, and what was on its way to it.
    hit = stack.owned()[victim.registered] | stack.given_to(victim.registered)
    await asyncio.to_thread(victim.start)
    return moment, hit


@bounded
async def test_workers_are_killed_at_random_moments(tmp_path: Path, dice: random.Random, tell: Tell) -> None:
    """Every answer is exact; a silence lasts for the lease, 2 s and the prefill, counted anew from each kill that hit
    it: a worker that has just taken over may be killed before its first token."""
    async with running_stack(tmp_path, workers=KILLED) as stack:
        kills = 0
        hits: dict[str, list[float]] = {}
        async with _kept_reading(stack, 3 * KILLED, 600 if FULL else 150) as readers:
            while kills < KILLS:
                await asyncio.sleep(dice.uniform(0.5, 1.5))
                moment, jobs = await _kill_one_that_works(stack, dice)
                kills += bool(jobs)  # else its last job ended just before it
                for job in jobs:
                    hits.setdefault(job, []).append(moment)
        parts = [part for reader in readers for part in _parts(reader, hits.get(reader.job or "", []))]
        told = f"longest silence {max(reader.silence_s for reader in readers):.1f} s, after one kill {max(parts):.1f} s"
        tell(f"{kills} kills, {len(hits)} answers hit, {len(readers)} exact, {told}")
    within(SILENCE_S, max(parts))


def _parts(reader: Reader, kills: list[float]) -> list[float]:
    """The silences of an answer, those with kills in them from each to the next."""
    return [
        after - before
        for begin, end in reader.silences
        for before, after in itertools.pairwise([begin, *(moment for moment in kills if begin < moment < end), end])
    ]


def lost_leases(worker: Worker) -> int:
    """How often it has noticed that a job of its own goes on elsewhere."""
    return sum(line.get("event") == "lease_lost" for line in worker.lines())


async def _stop_one_that_works(stack: Stack, dice: random.Random) -> None:
    """For longer than a lease; it must notice what it lost."""
    owned = stack.owned()
    victim = dice.choice([worker for worker in stack.workers if owned[worker.registered]])
    before = lost_leases(victim)
    with stack.stopped([victim]):
        await asyncio.sleep(SHORT_LEASE_S * dice.uniform(1.5, 3 if FULL else 1.6))
        await until_async(lambda: not stack.owned()[victim.registered])
    await until_async(lambda: lost_leases(victim) > before)


async def test_workers_are_stopped_and_wake_up_again(tmp_path: Path, dice: random.Random) -> None:
    """Nobody hears what a worker says whose lease was lost meanwhile."""
    async with running_stack(tmp_path, lease_s=SHORT_LEASE_S) as stack:
        for number in range(STOPS):
            async with reading(stack.readers(8, 250, first=100 * number + 1)):
                await asyncio.sleep(dice.uniform(0, 1))
                await _stop_one_that_works(stack, dice)


@bounded
async def test_a_hundred_clients_go_on_at_another_gateway(tmp_path: Path, tell: Tell) -> None:
    """Their gateway is killed; they are back within half a second (p99) and nothing was cancelled."""
    async with running_stack(tmp_path, slots=64, step_ms=50) as stack:
        readers = [Reader(stack.urls, len(stack.urls) * number, 120) for number in range(1, 101)]
        async with reading(readers, position=20):
            await asyncio.to_thread(stack.gateways[0].kill)
        assert all(reader.hits for reader in readers)
        resumed_s = [each for reader in readers for each in reader.resumed_s]
        tell(f"back after {spread(resumed_s)}")
        await start(stack)
    within(0.5 * BUSY, quantile(resumed_s, 0.99))


async def _stay(gateway: Gateway, seed: int, tokens: int) -> str:
    """The text of an answer over a socket that cannot come back, which is closed with 1012 after it."""
    async with dialogue(gateway.ws_url, ping_interval=None) as socket:
        await socket.open(max_length=1000)
        said = await socket.text(inputs="hi", max_new_tokens=tokens, seed=seed)
        with pytest.raises(ConnectionClosed) as closed:
            await socket.receive()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    return said


async def _whole(asker: Asker, seed: int, tokens: int) -> str:
    """The text of an answer in one piece."""
    assert (await asker.ask(seed, tokens)).exact
    return text(seed, 0, tokens)


def _running(stack: Stack) -> set[str]:
    return set().union(*stack.owned().values())


@contextlib.asynccontextmanager
async def _answers_that_cannot_move(stack: Stack, gateway: Gateway, tokens: int) -> AsyncIterator[None]:
    """Some of every kind begin at this gateway before the block, and must end there, in the block."""
    before, begun = _running(stack), set[str]()

    def have_begun() -> bool:
        begun.update(_running(stack) - before)
        return len(begun) == len(asked)

    async with Asker(gateway.url) as asker, asyncio.TaskGroup() as group:
        kinds = (partial(_stay, gateway), partial(_whole, asker), asker.stream_text)
        asked = {seed: group.create_task(kinds[seed % len(kinds)](seed, tokens)) for seed in range(15)}
        await until_async(have_begun)
        yield
        said = {seed: await task for seed, task in asked.items()}
    assert said == {seed: text(seed, 0, tokens) for seed in asked}


async def test_services_are_told_to_leave_under_load(tmp_path: Path, tell: Tell) -> None:
    """SIGTERM: out within 30 s, sockets closed with 1012, no answer lost and no attempt counted. What can go on at
    another gateway does, and nobody waits for a lease; all else is answered first."""
    async with running_stack(tmp_path, lease_s=LONG_LEASE_S) as stack:
        readers = stack.readers(20, 600)
        async with reading(readers, position=20):
            for worker, gateway in zip(stack.workers, stack.gateways, strict=True):
                await _leave_and_come_back(worker)
                async with _answers_that_cannot_move(stack, gateway, 100 if FULL else 50):
                    await _leave_and_come_back(gateway)
        assert {code for reader in readers for code in reader.codes} == {1012}
        longest = max(reader.silence_s for reader in readers)
        tell(f"longest silence {longest:.2f} s")
        assert longest < LONG_LEASE_S / 4
        jobs = list(stack.valkey.client.scan_iter("{p}:job:*"))
        assert len(jobs) == len(readers) + 15 * len(stack.gateways)
        assert {stack.valkey.client.hget(job, "stalls") for job in jobs} == {b"0"}


async def _leave_and_come_back(service: Worker | Gateway) -> None:
    began = time.monotonic()
    assert await asyncio.to_thread(service.terminate) == 0
    assert time.monotonic() - began <= 30
    await asyncio.to_thread(service.start)
