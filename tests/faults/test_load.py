"""More clients, slower ones and ruder ones than there should be."""

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.dialogue import dialogue
from tests.faults.asker import Answer, Asker
from tests.faults.conftest import BUSY, FULL, Stack, Tell, full_only, running_stack
from tests.faults.reader import quantile, spread
from tests.waiting import until_async

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

STEP_S = 0.02
AT_ONCE = 20
LEAVERS = 500 if FULL else 60
LATE = 500 if FULL else 40


async def _cancel(url: str, seed: int, after: int) -> tuple[int, float]:
    """Cancel an answer after so many tokens: how many came all the same, and the time to its end."""
    async with dialogue(url, ping_interval=None) as socket:
        await socket.open(max_length=2000)
        came, asked_at = 0, 0.0
        async for reply in socket.generate(inputs="hi", max_new_tokens=1, stop_sequence="never", seed=seed):
            assert reply["ok"], reply
            came += bool(reply["outputs"])
            if came == after and not asked_at:
                asked_at = time.monotonic()
                await socket.send({"type": "cancel"})
    return came - after, time.monotonic() - asked_at


async def _disconnect(stack: Stack, asker: Asker, seed: int, after: int) -> tuple[int, float]:
    """Leave an answer after so many tokens: how many events came after that, its ending not counted, and the time to
    its end at the broker."""
    async with contextlib.aclosing(asker.stream(seed, 2000)) as events:
        for _ in range(after):
            event = await anext(events)
    left_at = time.monotonic()
    key = f"{{p}}:job:{event['id'].rpartition('-')[2]}"
    await until_async(lambda: stack.valkey.client.hget(key, "state") == b"done")
    last = stack.valkey.client.hget(key, "last")
    assert isinstance(last, bytes)
    return int(last) - 1 - after, time.monotonic() - left_at


async def test_cancels_and_disconnects(stack: Stack, dice: random.Random, tell: Tell) -> None:
    """At most one more token is made, and the slot is free within a step and 100 ms."""
    found: list[tuple[int, float]] = []
    seeds = iter(range(1, LEAVERS + 1))

    async def leave(asker: Asker) -> None:
        for seed in seeds:
            after = dice.randint(1, 15)
            cancel = _cancel(stack.urls[0], seed, after) if seed % 2 else _disconnect(stack, asker, seed, after)
            found.append(await cancel)

    async with Asker(stack.gateways[1].url) as asker, asyncio.timeout(300), asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(leave(asker))
    assert len(found) == LEAVERS
    tell(f"{LEAVERS} ended after {spread([seconds for _, seconds in found])}, {max(found)[0]} more tokens at most")
    # The step that is under way when the client leaves, and one more.
    assert quantile([more for more, _ in found], 0.95) <= 2 * BUSY
    assert quantile([seconds for _, seconds in found], 0.99) <= (STEP_S + 0.1) * BUSY


async def test_deadlines(tmp_path: Path, tell: Tell) -> None:
    """Answers that take longer than they may end within a step of their deadline, those that wait included."""
    answers: list[Answer] = []
    async with (
        running_stack(tmp_path, workers=1, gateways=1, slots=AT_ONCE, deadline_s=1) as stack,
        Asker(stack.gateways[0].url) as asker,
        asyncio.timeout(300),
    ):
        while len(answers) < LATE:
            answers += await asyncio.gather(*(asker.ask(seed, 2000) for seed in range(2 * AT_ONCE)))
    assert Counter((answer.status, answer.error) for answer in answers) == {(504, "deadline_exceeded"): len(answers)}
    # A deadline counts from when the gateway has read the request.
    late_s = [line["seconds"] - 1 for line in stack.gateways[0].lines() if line.get("event") == "job"]
    tell(f"{len(late_s)} ended {spread(late_s)} after the deadline")
    assert len(late_s) == len(answers)
    assert quantile(late_s, 0.99) <= (STEP_S + 0.1) * BUSY


async def _offer(asker: Asker, per_s: float, seconds: float, tokens: int, users: int) -> list[Answer]:
    """Answers to so many requests a second, refusals included."""
    names, began = itertools.cycle(f"user-{number}" for number in range(users)), time.monotonic()
    async with asyncio.timeout(seconds + 60), asyncio.TaskGroup() as group:
        asks = []
        for number in range(int(per_s * seconds)):
            await asyncio.sleep(max(began + number / per_s - time.monotonic(), 0))
            asks.append(group.create_task(asker.ask(number + 1, tokens, next(names))))
    return [ask.result() for ask in asks]


async def _deepest(stack: Stack, depths: list[int]) -> None:
    while True:
        depths.append(stack.waiting())
        await asyncio.sleep(0.02)


async def test_five_times_too_much(tmp_path: Path, tell: Tell) -> None:
    """The line does not grow, who is refused hears when to come back, and who is not is served as fast as before."""
    bound, slots, tokens, users = 8, 4, 20, 3
    capacity, seconds = slots / (tokens * STEP_S), 60 if FULL else 2
    async with running_stack(
        tmp_path, workers=1, gateways=1, slots=slots, max_waiting=bound, max_waiting_per_client=3
    ) as stack:
        depths: list[int] = []
        async with Asker(stack.gateways[0].url) as asker:
            full = await _offer(asker, 2 * capacity, seconds / 2, tokens, users)
            watch = asyncio.create_task(_deepest(stack, depths))
            try:
                answers = await _offer(asker, 5 * capacity, seconds, tokens, users)
            finally:
                watch.cancel()
    refused = [answer for answer in answers if answer.status != 200]
    admitted = [answer.seconds for answer in answers if answer.exact]
    assert len(admitted) + len(refused) == len(answers)
    assert {answer.status for answer in refused} == {429, 503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert max(depths) <= bound
    assert len(admitted) >= 0.5 * capacity * seconds
    before = quantile([answer.seconds for answer in full if answer.exact], 0.95)
    statuses = dict(Counter(answer.status for answer in answers))
    tell(f"{statuses}, depth {max(depths)}, p95 {quantile(admitted, 0.95):.2f} s, at twice too much {before:.2f} s")
    assert quantile(admitted, 0.95) <= 1.2 * before * BUSY


async def test_one_tenant_does_not_starve_nine(tmp_path: Path, tell: Tell) -> None:
    """One has far more requests in line; each of the nine others gets at least 90 % of its share."""
    crowd = [*(20 * [f"light-{number}" for number in range(9)]), *(300 * ["heavy"])]
    done: list[str] = []

    async def ask(asker: Asker, seed: int, user: str) -> None:
        assert (await asker.ask(seed, 10, user)).exact
        done.append(user)

    async with (
        running_stack(tmp_path, workers=1, gateways=1, slots=10, lease_s=60) as stack,
        Asker(stack.gateways[0].url) as asker,
        asyncio.timeout(120),
        asyncio.TaskGroup() as group,
    ):
        with stack.stopped(stack.workers):
            asks = [group.create_task(ask(asker, seed, user)) for seed, user in enumerate(crowd)]
            # The worker has been offered twice as many as it has slots, and has read one.
            await until_async(lambda: stack.waiting() >= len(crowd) - 21, 60)
        await until_async(lambda: len(done) >= 130, 60)
        for each in asks:
            each.cancel()
    # The first ones were offered in the order in which they came.
    shares = Counter(done[30:130])
    tell(f"of 100 answers {sorted(shares.values())}")
    assert min(shares[user] for user in crowd) >= 9, shares


async def _dawdle(port: int, ended_s: list[float]) -> None:
    """Send a head one byte a second, until the server has enough of it."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        for byte in itertools.chain(b"GET /health/live HTTP/1.1\r\nx-patience: ", itertools.repeat(97)):
            writer.write(bytes([byte]))
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), 1)
                break
    writer.close()
    ended_s.append(time.monotonic() - began)


@full_only
async def test_slow_lorises(stack: Stack, tell: Tell) -> None:
    """500 sockets are closed within 15 s, and nobody else notices."""
    ended_s: list[float] = []
    health_s: list[float] = []
    async with Asker(stack.gateways[0].url) as asker, asyncio.timeout(60):
        dawdling = [asyncio.create_task(_dawdle(stack.gateways[0].port, ended_s)) for _ in range(500)]
        try:
            while not all(task.done() for task in dawdling):
                health_s.append(await asker.health_s())
                await asyncio.sleep(0.05)
        finally:
            for task in dawdling:
                task.cancel()
            await asyncio.gather(*dawdling, return_exceptions=True)
    tell(f"{len(ended_s)} closed within {max(ended_s):.1f} s, health in {spread(health_s)}")
    assert len(ended_s) == 500
    assert max(ended_s) <= 15
    assert quantile(health_s, 0.99) <= 0.2
