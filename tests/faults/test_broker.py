"""The broker itself is killed, with or without the tail of its file."""

import asyncio
import os
import random
import re
from pathlib import Path

import pytest

from tests.faults.asker import Answer, Asker
from tests.faults.conftest import FULL, Stack, Tell, start
from tests.faults.reader import Reader, reading
from tests.waiting import until_async

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1200)]

# Of a stream, or of its session.
BROKE_OFF = r"cannot go on exactly|does not exist"
RESUBMITTED = "corolla_jobs_resubmitted_total"
STREAMS = 12


async def test_the_broker_is_killed_and_comes_back_with_its_file(stack: Stack, dice: random.Random, tell: Tell) -> None:
    """Every answer is exact; or its client is told that it broke off: on a busy disk the server acknowledges what it
    writes up to two seconds later."""
    kills, exact, told = 20 if FULL else 2, 0, 0
    for number in range(kills):
        readers = stack.readers(STREAMS, 100, first=100 * number + 1)
        async with reading(readers, whole=False):
            await asyncio.sleep(dice.uniform(0, 1))
            stack.valkey.kill()
            await asyncio.sleep(dice.uniform(0, 1))
            stack.valkey.start()
        exact += sum(reader.exact for reader in readers)
        told += sum(bool(re.search(BROKE_OFF, reader.failure or "")) for reader in readers)
        assert exact + told == STREAMS * (number + 1), [reader.failure for reader in readers]
    tell(f"{kills} kills, {exact} exact, {told} told that they broke off")
    assert exact >= told


def _file(folder: Path) -> Path:
    """The append-only file."""
    return max((folder / "appendonlydir").glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)


async def _lose_tail(stack: Stack, readers: list[Reader], with_worker: bool, dice: random.Random) -> None:
    """As if the machine lost power: what was written while the readers' tokens 10 to 40 came is lost in part."""
    async with reading(readers, position=10, whole=False):
        safe = _file(stack.valkey.folder).stat().st_size
        await until_async(lambda: all(reader.position >= 40 for reader in readers), 20)
        stack.valkey.kill()
        if with_worker:
            stack.workers[0].kill()
        file = _file(stack.valkey.folder)
        os.truncate(file, dice.randint(safe, file.stat().st_size))
        await start(stack)


@pytest.mark.parametrize("with_worker", [False, True])
async def test_the_broker_loses_the_tail_of_its_file(
    stack: Stack, with_worker: bool, dice: random.Random, tell: Tell
) -> None:
    """Every answer is exact, or its client is told that it broke off; with a worker lost as well."""
    exact = told = 0
    for number in range(10 if FULL else 1):
        readers = stack.readers(STREAMS, 200, first=100 * number + 1)
        await _lose_tail(stack, readers, with_worker, dice)
        exact += sum(reader.exact for reader in readers)
        told += sum(bool(re.search(BROKE_OFF, reader.failure or "")) for reader in readers)
        assert exact + told == STREAMS * (number + 1), [reader.failure for reader in readers]
    tell(f"{exact} exact, {told} told that they broke off")
    assert exact >= told


async def _forget(stack: Stack, seeds: range) -> list[Answer]:
    """Answers to questions that the broker accepts and forgets."""
    safe, before = _file(stack.valkey.folder).stat().st_size, stack.jobs()
    async with Asker(stack.gateways[0].url) as asker, asyncio.timeout(60), asyncio.TaskGroup() as group:
        with stack.stopped(stack.workers):
            asks = [group.create_task(asker.ask(seed, 20)) for seed in seeds]
            await until_async(lambda: stack.jobs() == before + len(seeds))
            await stack.counted(RESUBMITTED)  # until then the gateways may not have heard that all were accepted
            stack.valkey.kill()
            os.truncate(_file(stack.valkey.folder), safe)
            stack.valkey.start()
    return [ask.result() for ask in asks]


async def test_the_broker_forgets_what_it_has_just_accepted(stack: Stack) -> None:
    """The gateways send it again: no job vanishes, and each is answered once. All were lost, and sent again once."""
    for number in range(5 if FULL else 1):
        before = await stack.counted(RESUBMITTED)
        answers = await _forget(stack, range(100 * number, 100 * number + STREAMS))
        assert [answer.exact for answer in answers] == [True] * STREAMS
        assert await stack.counted(RESUBMITTED) - before == STREAMS
