"""Dialogues whose worker is lost, again and again."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.dialogue import dialogue
from tests.faults.conftest import FULL, SHORT_LEASE_S, Stack, Tell, running_stack, start
from tests.faults.keyspace import Keyspace
from tests.services import Worker
from worker.oracle_backend import OracleTokenizer, text

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

SESSIONS = 4
TURNS = 50 if FULL else 3
TOKENS = 20


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


async def _kill_an_owner(stack: Stack, victim: Worker) -> bool:
    """Kill it; whether it owned a session then that had a turn under way there."""
    await asyncio.to_thread(victim.kill)
    keyspace = Keyspace(stack.valkey.client)
    sessions = {keyspace.field(job, "session") for job in stack.owned()[victim.registered]}
    return any(keyspace.owner_of(session) == victim.registered for session in sessions if session)


async def test_the_owners_of_sessions_are_killed(tmp_path: Path, dice: random.Random, tell: Tell) -> None:
    """The history is as without a fault, and nothing is stranded."""
    kills = 0
    async with (
        running_stack(tmp_path, lease_s=SHORT_LEASE_S) as stack,
        asyncio.timeout(500),
        asyncio.TaskGroup() as group,
    ):
        talks = [group.create_task(_converse(stack, number)) for number in range(1, SESSIONS + 1)]
        while not all(talk.done() for talk in talks):
            await asyncio.sleep(dice.uniform(0.1, 1))
            owned = stack.owned()
            if working := [worker for worker in stack.workers if owned[worker.registered]]:
                kills += await _kill_an_owner(stack, dice.choice(working))
                await start(stack)
    tell(f"{kills} owners killed in mid-turn, {SESSIONS * TURNS} turns")
    assert kills >= (10 if FULL else 1)
