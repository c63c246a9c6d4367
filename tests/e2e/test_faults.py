"""What clients see when a part of the system is killed in mid-answer: nothing but a pause.

The oracle's token at position p follows from (seed, p), so every text is known to the byte.
"""

import asyncio
import secrets
import time

import pytest
from websockets.exceptions import ConnectionClosed

from tests.dialogue import Dialogue, Reply, dialogue
from tests.e2e.conftest import Stack
from tests.waiting import until, until_async
from worker.oracle_backend import text

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.timeout(120)]

LEASE_S = 8.0
TOKENS = 200


def question(seed: int, tokens: int = TOKENS) -> dict[str, object]:
    """A streamed call that ends after `tokens` tokens, with the last of them as its stop sequence."""
    return {"inputs": "hi", "max_new_tokens": 1, "stop_sequence": text(seed, tokens - 1, 1), "seed": seed}


async def read(socket: Dialogue, seed: int, **fields: object) -> tuple[str, float, list[Reply]]:
    """A whole streamed answer: its text, the longest silence in seconds, its replies."""
    silence_s, before, replies = 0.0, time.monotonic(), []
    async for reply in socket.generate(**question(seed), **fields):
        silence_s, before = max(silence_s, time.monotonic() - before), time.monotonic()
        replies.append(reply)
    assert replies[-1]["ok"], replies[-1]
    return "".join(reply["outputs"] for reply in replies), silence_s, replies


async def begin(stack: Stack, seed: int, job: str) -> tuple[asyncio.Task[tuple[str, float, list[Reply]]], str]:
    """Start reading an answer in a task of its own; returns once its job is running and has some tokens."""

    async def run() -> tuple[str, float, list[Reply]]:
        async with dialogue(stack.gateways[0].ws_url) as socket:
            await socket.open(max_length=1024)
            return await read(socket, seed, job_id=job)

    task = asyncio.create_task(run())
    await until_async(lambda: int(stack.valkey.client.hget(f"{{p}}:job:{job}", "last") or 0) >= 20)
    return task, job


async def test_a_worker_is_killed_and_another_goes_on(oracle: Stack) -> None:
    task, job = await begin(oracle, 11, secrets.token_hex(16))
    oracle.owner_of(job).kill()
    got, silence_s, _ = await task
    assert got == text(11, 0, TOKENS)
    assert silence_s <= LEASE_S + 3


async def test_the_only_worker_is_killed_and_started_again(oracle: Stack) -> None:
    oracle.workers[1].terminate()
    task, _ = await begin(oracle, 12, secrets.token_hex(16))
    oracle.workers[0].kill()
    oracle.workers[0].start()
    got, _, _ = await task
    assert got == text(12, 0, TOKENS)


async def test_a_worker_that_is_told_to_leave_hands_its_jobs_on_at_once(oracle: Stack) -> None:
    task, job = await begin(oracle, 13, secrets.token_hex(16))
    assert oracle.owner_of(job).terminate() == 0
    got, silence_s, _ = await task
    assert got == text(13, 0, TOKENS)
    assert silence_s <= 3
    assert oracle.valkey.client.hget(f"{{p}}:job:{job}", "stalls") == b"0"


async def test_the_broker_is_killed_and_comes_back(oracle: Stack) -> None:
    task, _ = await begin(oracle, 14, secrets.token_hex(16))
    oracle.valkey.write_through()
    oracle.valkey.kill()
    oracle.valkey.start()
    got, _, _ = await task
    assert got == text(14, 0, TOKENS)


async def test_a_gateway_is_killed_and_the_other_one_goes_on(oracle: Stack) -> None:
    # given a resumable answer that is being read
    first, second = oracle.gateways
    got: list[Reply] = []

    async def read_until_lost(socket: Dialogue) -> None:
        async for reply in socket.generate(**question(15)):
            got.append(reply)
            if len(got) == 30:
                first.kill()

    async with dialogue(first.ws_url) as socket:
        opened = await socket.open(max_length=1024, resumable=True)
        # when its gateway is killed
        with pytest.raises(ConnectionClosed):
            await read_until_lost(socket)
    # then another gateway goes on after the last message that arrived
    async with dialogue(second.ws_url) as socket:
        cursor = {"session_id": opened["session_id"], "job_id": got[-1]["job_id"], "after": got[-1]["seq"]}
        await socket.send({"type": "resume", **cursor})
        got += [reply async for reply in socket.replies()]
    assert [reply["ok"] for reply in got] == [True] * len(got)
    assert "".join(reply["outputs"] for reply in got) == text(15, 0, TOKENS)


async def test_32_answers_at_the_same_time(oracle: Stack) -> None:
    async def one(seed: int) -> str:
        async with dialogue(oracle.gateways[seed % 2].ws_url) as socket:
            await socket.open(max_length=1024)
            return (await read(socket, seed))[0]

    texts = await asyncio.gather(*(one(seed) for seed in range(100, 132)))
    assert texts == [text(seed, 0, TOKENS) for seed in range(100, 132)]


async def test_a_disconnect_frees_its_slot(oracle: Stack) -> None:
    # given an answer that is being written
    job = secrets.token_hex(16)
    async with dialogue(oracle.gateways[0].ws_url) as socket:
        await socket.open(max_length=1024)
        replies = socket.generate(**question(16), job_id=job)
        await anext(replies)
        # when its client goes away
    gone = time.monotonic()
    # then its job ends within a step (20 ms) and 100 ms
    client = oracle.valkey.client
    until(lambda: client.hget(f"{{p}}:job:{job}", "state") == b"done", timeout_s=5)
    assert time.monotonic() - gone <= 0.02 + 0.1
