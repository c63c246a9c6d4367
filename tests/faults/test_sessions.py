"""Dialogues whose worker is lost, again and again."""

import asyncio
import random

import pytest

from tests.dialogue import dialogue
from tests.faults.conftest import FULL, Stack, start
from tests.faults.keyspace import Keyspace
from worker.oracle_backend import OracleTokenizer, text

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

SESSIONS = 4
TURNS = 50 if FULL else 6
TOKENS = 10


async def _converse(stack: Stack, number: int) -> None:
    """So many turns; in the end the session must hold all that was said."""
    said = ""
    async with dialogue(stack.urls[0], ping_interval=None) as socket:
        session = (await socket.open(max_length=5000))["session_id"]
        for seed in range(1000 * number, 1000 * number + TURNS):
            inputs = f"turn {seed}: "
            assert await socket.text(inputs=inputs, max_new_tokens=TOKENS, seed=seed) == text(seed, 0, TOKENS)
            said += inputs + text(seed, 0, TOKENS)
        assert OracleTokenizer().decode(Keyspace(stack.valkey.client).session_ids(session)) == said


async def test_the_owners_of_sessions_are_killed(stack: Stack, dice: random.Random) -> None:
    """The history is as without a fault, and nothing is stranded."""
    async with asyncio.timeout(500), asyncio.TaskGroup() as group:
        talks = [group.create_task(_converse(stack, number)) for number in range(1, SESSIONS + 1)]
        while not all(talk.done() for talk in talks):
            await asyncio.sleep(dice.uniform(0.2, 3))
            await asyncio.to_thread(dice.choice(stack.workers).kill)
            await start(stack)
