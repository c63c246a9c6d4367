"""The broker itself is killed, with or without the tail of its file."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.faults.conftest import FULL, Stack, start
from tests.faults.reader import reading

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1200)]

DISCONTINUITY = "cannot go on exactly"
STREAMS = 12


async def test_the_broker_is_killed_and_comes_back_with_its_file(stack: Stack, dice: random.Random) -> None:
    for number in range(20 if FULL else 2):
        async with reading(stack.readers(STREAMS, 100, first=100 * number + 1)):
            await asyncio.sleep(dice.uniform(0, 1))
            stack.valkey.kill()
            await asyncio.sleep(dice.uniform(0, 1))
            stack.valkey.start()


def _cut_tail(folder: Path, share: float) -> None:
    """As if the machine had lost power: the end of the append-only file is not there."""
    file = max((folder / "appendonlydir").glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
    size = file.stat().st_size
    with file.open("r+b") as content:
        content.truncate(int(size * (1 - share)))


@pytest.mark.parametrize("with_worker", [False, True])
async def test_the_broker_loses_the_tail_of_its_file(stack: Stack, with_worker: bool, dice: random.Random) -> None:
    """Every answer is exact, or its client is told that it broke off; with a worker lost as well."""
    for number in range(10 if FULL else 1):
        readers = stack.readers(STREAMS, 150, first=100 * number + 1)
        async with reading(readers, position=30, whole=False):
            stack.valkey.kill()
            if with_worker:
                stack.workers[0].kill()
            _cut_tail(stack.valkey.folder, dice.uniform(0.02, 0.3))
            stack.valkey.start()
            await start(stack)
        for reader in readers:
            assert reader.exact or DISCONTINUITY in (reader.failure or ""), (reader.seed, reader.failure)
        assert sum(reader.exact for reader in readers) >= STREAMS // 2
