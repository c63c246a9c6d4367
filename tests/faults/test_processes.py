"""Workers and gateways are killed, stopped and told to leave while answers are read."""

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.conftest import FULL, Stack, running_stack, start
from tests.faults.reader import Reader, check, quantile, read_all
from tests.services import Gateway, Worker
from tests.waiting import until_async

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1500)]

LEASE_S = 8.0
PREFILL_S = 1.0
KILLS = 200 if FULL else 8
STOPS = 50 if FULL else 1


async def _keep_reading(stack: Stack, streams: int, tokens: int, done: asyncio.Event) -> list[Reader]:
    """So many answers at every moment until `done`; all that were read."""
    read: list[Reader] = []

    async def follow(number: int) -> None:
        while not done.is_set():
            reader = Reader(stack.urls, 1000 * number + len(read), tokens)
            read.append(reader)
            await reader.read()

    await asyncio.gather(*(follow(number) for number in range(1, streams + 1)))
    return read


async def test_workers_are_killed_at_random_moments(tmp_path: Path, dice: random.Random) -> None:
    """Every answer is exact; a silence lasts for the lease, 2 s and the prefill, for each kill that hit it."""
    async with running_stack(tmp_path, workers=8) as stack:
        done, hit = asyncio.Event(), dict[str, list[float]]()
        reading = asyncio.create_task(_keep_reading(stack, 24, 600, done))
        for _ in range(KILLS):
            await asyncio.sleep(dice.uniform(0.5, 1.5))
            busy = [worker for worker in stack.workers if stack.owned()[worker.registered]]
            victim = dice.choice(busy or stack.workers)
            for job in stack.owned()[victim.registered]:
                hit.setdefault(job, []).append(time.monotonic())
            victim.kill()
            await asyncio.to_thread(victim.start)
        done.set()
        readers = await reading
        check(readers)
        assert hit
        bound_s = LEASE_S + 2 + PREFILL_S
        for reader in readers:
            for begin, end in reader.silences:
                # A stop sequence keeps back the newest token, so a kill may lie just before the last token that came.
                kills = sum(begin - 1 < moment < end for moment in hit.get(reader.job or "", []))
                assert end - begin <= bound_s * max(kills, 1), (reader.seed, end - begin, kills)


async def test_workers_are_stopped_and_wake_up_again(stack: Stack, dice: random.Random) -> None:
    """Nobody hears what a worker says whose lease was lost meanwhile."""
    for _ in range(STOPS):
        reading = asyncio.create_task(read_all(stack.readers(8, 400)))
        await until_async(lambda: any(stack.owned().values()))
        await asyncio.sleep(dice.uniform(0.2, 1))
        victim = dice.choice([worker for worker in stack.workers if stack.owned()[worker.registered]])
        assert victim.process is not None
        os.kill(victim.process.pid, signal.SIGSTOP)
        await asyncio.sleep(LEASE_S * dice.uniform(1.5, 3 if FULL else 1.6))
        os.kill(victim.process.pid, signal.SIGCONT)
        await reading
        fenced = [line for line in victim.lines() if line.get("event") == "lease_lost"]
        assert fenced


async def test_a_hundred_clients_go_on_at_another_gateway(stack: Stack) -> None:
    """Their gateway is killed; they are back within half a second (p99) and nothing was cancelled."""
    readers = stack.readers(100, 250)
    reading = asyncio.create_task(read_all(readers))
    await until_async(lambda: all(reader.position > 20 for reader in readers), 60)
    stack.gateways[0].kill()
    await reading
    resumed = [each for reader in readers for each in reader.resumed_s]
    assert sum(reader.hits > 0 for reader in readers) >= 45
    assert quantile(resumed, 0.99) <= 0.5
    await start(stack)


async def test_services_are_told_to_leave_under_load(stack: Stack) -> None:
    """SIGTERM: out within 30 s, sockets closed with 1012, no answer lost and no attempt counted."""
    readers = stack.readers(20, 500)
    reading = asyncio.create_task(read_all(readers))
    await until_async(lambda: all(reader.position > 20 for reader in readers), 60)
    for service in (stack.workers[0], stack.gateways[0], stack.workers[1], stack.gateways[1]):
        await _leave_and_come_back(service)
    await reading
    assert max(reader.silence_s for reader in readers) < LEASE_S
    stalls = [stack.valkey.client.hget(f"{{p}}:job:{reader.job}", "stalls") for reader in readers]
    assert stalls == [b"0"] * len(readers)


async def _leave_and_come_back(service: Worker | Gateway) -> None:
    began = time.monotonic()
    assert await asyncio.to_thread(service.terminate) == 0
    assert time.monotonic() - began <= 30
    await asyncio.to_thread(service.start)
