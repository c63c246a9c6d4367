"""More clients, slower ones and ruder ones than there should be."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.dialogue import dialogue
from tests.faults.asker import Answer, Asker
from tests.faults.conftest import BUSY, FULL, Stack, Tell, bounded, full_only, running_stack, within
from tests.faults.ear import Ear, hearing
from tests.faults.reader import quantile, spread
from tests.waiting import until_async

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

# Longer than the noise of a machine that is shared: bounds of a step are about the step.
STEP_S = 0.1
AT_ONCE = 20
LEAVERS = 500 if FULL else 60
LATE = 500 if FULL else 60
# Beside other tests: still less than where a gateway's next look finds it (2 s), or the broker's (5 s).
LATE_S = STEP_S if FULL else 1.0
LIGHT = [f"10.1.0.{number}" for number in range(1, 10)]
HEAVY = "10.2.0.1"
PROXIED = "127.0.0.1"


async def _cancel(url: str, seed: int, after: int) -> tuple[str, float]:
    """Cancel an answer after so many tokens: its job, and the time until its client hears of its end."""
    async with dialogue(url, ping_interval=None) as socket:
        await socket.open(max_length=2000)
        came, asked_at = 0, 0.0
        async for reply in socket.generate(inputs="hi", max_new_tokens=1, stop_sequence="never", seed=seed):
            assert reply["ok"], reply
            came += bool(reply["outputs"])
            if came == after and not asked_at:
                asked_at = time.monotonic()
                await socket.send({"type": "cancel"})
    return reply["job_id"], time.monotonic() - asked_at


async def _disconnect(stack: Stack, asker: Asker, seed: int, after: int) -> tuple[str, float]:
    """Leave an answer after so many tokens: its job, and the time until its end at the broker."""
    async with contextlib.aclosing(asker.stream(seed, 2000)) as events:
        for _ in range(after):
            event = await anext(events)
    left_at, job = time.monotonic(), event["id"].rpartition("-")[2]
    await until_async(lambda: stack.valkey.client.hget(f"{{p}}:job:{job}", "state") == b"done")
    return job, time.monotonic() - left_at


@bounded
async def test_cancels_and_disconnects(tmp_path: Path, dice: random.Random, tell: Tell) -> None:
    """From when the broker has the cancel on, it takes one token more at most: that of the step which is under way, or
    one that is on its way. The slot is free within a step and 100 ms from when the client left."""
    ended_s: dict[str, float] = {}
    seeds = iter(range(1, LEAVERS + 1))

    async def leave(stack: Stack, asker: Asker) -> None:
        for seed in seeds:
            after = dice.randint(1, 10)
            cancel = _cancel(stack.urls[0], seed, after) if seed % 2 else _disconnect(stack, asker, seed, after)
            job, seconds = await cancel
            ended_s[job] = seconds

    async with (
        running_stack(tmp_path, step_ms=int(1000 * STEP_S), proxied=False) as stack,
        hearing(stack.valkey.port) as ear,
    ):
        async with Asker(stack.gateways[1].url) as asker, asyncio.timeout(300), asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(leave(stack, asker))
        await until_async(lambda: _all_ended(ear, ended_s))
        more = Counter(ear.more(job) for job in ended_s)
    tell(
        f"{LEAVERS} ended after {spread([*ended_s.values()])}, {max(ended_s.values()):.3f} s at most; {dict(more)} more"
    )
    assert more.total() == LEAVERS
    within(1, max(more))
    within((STEP_S + 0.1) * BUSY, max(ended_s.values()))


def _all_ended(ear: Ear, jobs: Collection[str]) -> bool:
    """Whether the ear, which hears a little later than others, has heard of their endings."""
    return all(job in ear.cancelled and ear.more(job) >= 0 for job in jobs)


@bounded
async def test_deadlines(tmp_path: Path, tell: Tell) -> None:
    """Answers that take longer than they may end within a step of their deadline, those that wait included."""
    answers: list[Answer] = []

    async def keep_asking(asker: Asker, number: int) -> None:
        await asyncio.sleep(number / (2 * AT_ONCE))  # so that not all deadlines are at the same moment
        while len(answers) < LATE:
            answers.append(await asker.ask(number, 2000))

    async with (
        running_stack(
            tmp_path, workers=1, gateways=1, slots=AT_ONCE, step_ms=int(1000 * STEP_S), proxied=False, deadline_s=1
        ) as stack,
        Asker(stack.gateways[0].url) as asker,
        asyncio.timeout(300),
        asyncio.TaskGroup() as group,
    ):
        for number in range(2 * AT_ONCE):
            group.create_task(keep_asking(asker, number))
    assert len(answers) >= LATE
    assert Counter((answer.status, answer.error) for answer in answers) == {(504, "deadline_exceeded"): len(answers)}
    # From when the gateway has read the request to when it knows of the end.
    late_s = [line["seconds"] - 1 for line in stack.gateways[0].lines() if line.get("event") == "job"]
    tell(f"{len(late_s)} ended {spread(late_s)} after the deadline, {1000 * max(late_s):.0f} ms at most")
    assert len(late_s) == len(answers)
    within(LATE_S, max(late_s))


async def _offer(asker: Asker, per_s: float, seconds: float, dice: random.Random) -> list[Answer]:
    """Answers to so many requests a second of five clients, by turns over both APIs, refusals included; of 20 tokens in
    the mean, but not all alike, for those would all end at the same moment."""
    began = time.monotonic()
    async with asyncio.timeout(seconds + 60), asyncio.TaskGroup() as group:
        asks = []
        for number in range(int(per_s * seconds)):
            await asyncio.sleep(max(began + number / per_s - time.monotonic(), 0))
            ask = asker.ask_petals if number % 2 else asker.ask
            asks.append(group.create_task(ask(number + 1, dice.randint(10, 30), address=LIGHT[number % 5])))
    return [ask.result() for ask in asks]


async def _deepest(stack: Stack, depths: list[int]) -> None:
    while True:
        depths.append(stack.waiting())
        await asyncio.sleep(0.02)


@bounded
async def test_five_times_too_much(tmp_path: Path, dice: random.Random, tell: Tell) -> None:
    """The line does not grow, who is refused hears when to come back, and who is not is served nearly as fast as where
    there is too little to do: the line holds a tenth of what is under way, so it costs as much of an answer's time."""
    bound, slots, step_s = 2, 20, 0.05
    capacity, seconds = slots / (20 * step_s), 60 if FULL else 3
    async with running_stack(
        tmp_path,
        workers=1,
        gateways=1,
        slots=slots,
        step_ms=int(1000 * step_s),
        proxied=False,
        max_waiting=bound,
        max_waiting_per_client=1,
        trusted_proxies=PROXIED,
    ) as stack:
        depths: list[int] = []
        async with Asker(stack.gateways[0].url) as asker:
            usual = await _offer(asker, 0.5 * capacity, seconds / 2, dice)
            watch = asyncio.create_task(_deepest(stack, depths))
            try:
                answers = await _offer(asker, 5 * capacity, seconds, dice)
            finally:
                watch.cancel()
    refused = [answer for answer in answers if answer.status != 200]
    admitted = [answer.seconds for answer in answers if answer.exact]
    assert len(admitted) + len(refused) == len(answers)
    # Over each of the APIs.
    for api in (0, 1):
        assert {answer.status for answer in answers[api::2]} == {200, 429, 503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert max(depths) <= bound
    # The slots were never idle.
    assert sum(admitted) >= 0.9 * slots * seconds
    usual_s = [answer.seconds for answer in usual if answer.exact]
    before, after = (quantile(each, 0.95) for each in (usual_s, admitted))
    statuses = dict(Counter(answer.status for answer in answers))
    tell(f"{statuses}, depth {max(depths)}, p95 {after:.2f} s, without load {before:.2f} s")
    # Without its bound the line would take a quarter of a minute in the short form.
    within(1.2 * before + (BUSY - 1), after)


async def test_one_client_does_not_starve_nine(tmp_path: Path, tell: Tell) -> None:
    """One has a hundred times as many requests in line as each of the nine others (in the short form 25 times), half of
    them for as many users; each of the nine gets at least 90 % of its share, though its requests came later."""
    each_light, heavies = 12, 1200 if FULL else 300
    done: list[str] = []

    async def ask(asker: Asker, seed: int, client: str, user: str | None = None) -> None:
        assert (await asker.ask(seed, 10, user, client)).exact
        done.append(client)

    async with (
        running_stack(
            tmp_path,
            workers=1,
            gateways=1,
            slots=10,
            lease_s=120,
            proxied=False,
            max_waiting=10_000,
            max_waiting_per_client=10_000,
            trusted_proxies=PROXIED,
        ) as stack,
        Asker(stack.gateways[0].url) as asker,
        asyncio.timeout(240),
        asyncio.TaskGroup() as group,
    ):
        with stack.stopped(stack.workers):
            users = [f"user-{number}" if number % 2 else None for number in range(heavies)]
            asks = [group.create_task(ask(asker, seed, HEAVY, user)) for seed, user in enumerate(users)]
            # The worker has been offered twice as many as it has slots, and has read one.
            await until_async(lambda: stack.waiting() >= heavies - 21, 120)
            asks += [group.create_task(ask(asker, seed, client)) for seed, client in enumerate(each_light * LIGHT)]
            await until_async(lambda: stack.waiting() >= len(asks) - 21, 60)
        await until_async(lambda: len(done) >= 130, 60)
        for each in asks:
            each.cancel()
    # The first ones were offered in the order in which they came.
    shares = Counter(done[30:130])
    tell(f"of 100 answers {sorted(shares.values())}")
    assert min(shares[client] for client in LIGHT) >= 9, shares


async def test_one_client_does_not_fill_the_line_with_users(tmp_path: Path) -> None:
    """Who names a new user in each request is refused at the bound of one client, and nobody else is."""
    async with (
        running_stack(
            tmp_path,
            workers=1,
            gateways=1,
            slots=1,
            lease_s=60,
            proxied=False,
            max_waiting=60,
            max_waiting_per_client=20,
            trusted_proxies=PROXIED,
        ) as stack,
        Asker(stack.gateways[0].url) as asker,
        asyncio.TaskGroup() as group,
    ):
        with stack.stopped(stack.workers):
            heavy = [group.create_task(asker.ask(seed, 1, f"user-{seed}", HEAVY)) for seed in range(100)]
            await until_async(lambda: sum(each.done() for each in heavy) >= 100 - 23)
            light = [group.create_task(asker.ask(seed, 1, None, client)) for seed, client in enumerate(LIGHT)]
            await until_async(lambda: stack.waiting() >= 29)
    statuses = Counter(each.result().status for each in heavy)
    assert statuses[429] >= 77
    assert statuses[200] + statuses[429] == 100
    assert [each.result().exact for each in light] == [True] * len(LIGHT)


REQUESTS = {
    "head": b"GET /health/live HTTP/1.1\r\nx-patience: ",
    "handshake": b"GET /api/v2/generate HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\nx-patience: ",
    "body": b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    b"content-length: 9999\r\n\r\n",
    "form": b"POST /api/v1/generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\n"
    b"content-length: 9999\r\n\r\ninputs=",
    "upload": b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n"
    b"content-length: 99999\r\n\r\n--b\r\ncontent-disposition: form-data; name=file; filename=a\r\n\r\n",
}


async def _dawdle(port: int, beginning: bytes) -> float:
    """Send the beginning of a request, and then a byte a second, until the server has enough of it: after how long."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(beginning)
    with contextlib.suppress(ConnectionError):
        while not await _ended(reader):
            writer.write(b"a")
            await writer.drain()
    writer.close()
    return time.monotonic() - began


async def _ended(reader: asyncio.StreamReader) -> bool:
    """Whether the connection ends within a second; what is said before is read."""
    try:
        async with asyncio.timeout(1):
            while await reader.read(1000):
                pass
    except TimeoutError:
        return False
    return True


@full_only
async def test_slow_lorises(stack: Stack, tell: Tell) -> None:
    """500 sockets are closed within 15 s, whatever they dribble, and nobody else notices."""
    health_s: list[float] = []
    async with Asker(stack.gateways[0].url) as asker, asyncio.timeout(60):
        port = stack.gateways[0].port
        dawdling = {
            kind: [asyncio.create_task(_dawdle(port, beginning)) for _ in range(100)]
            for kind, beginning in REQUESTS.items()
        }
        tasks = [task for each in dawdling.values() for task in each]
        try:
            while not all(task.done() for task in tasks):
                health_s.append(await asker.health_s())
                await asyncio.sleep(0.05)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    longest = {kind: max(task.result() for task in each) for kind, each in dawdling.items()}
    told = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in longest.items())
    tell(f"closed within: {told}; health in {spread(health_s)}")
    assert max(longest.values()) <= 15
    assert quantile(health_s, 0.99) <= 0.2
