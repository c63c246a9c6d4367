"""Each of the broker's operations, its reply lost, so that redis-py sends it again: the broker is as if it came once.

What it then answers may be different: the caller hears the second answer.
"""

import asyncio
import dataclasses
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared import lua
from shared.broker import Broker
from shared.dead import DeadLetters
from shared.heart import Heart
from shared.keys import Keys, Timing
from shared.link import Link
from shared.messages import FinishReason, JobFinished, JobRequest, Token
from shared.records import Append, Bounds, Registration, SessionCommit, Submission
from shared.sampling import SamplingParams
from shared.shelf import Shelf
from tests.faults.proxy import Proxy
from tests.valkey import Valkey
from tests.waiting import until_async

pytestmark = pytest.mark.anyio

# All times are so long that the moments of two runs are alike beside them.
ROUND_MS = 30_000
HOUR_MS = 3_600_000
TIMING = Timing(lease_ms=HOUR_MS, grace_ms=60_000, orphan_ms=HOUR_MS, stall_limit=1)
MODEL = "corolla/oracle"
REQUEST = JobRequest(model=MODEL, sampling=SamplingParams(seed=7), prompt="hi", max_new_tokens=3)
WHO = Registration("w1", (MODEL,), 4)
A, B = Token(10, "a"), Token(11, "b")
DONE = JobFinished(FinishReason.LENGTH, 2, 2)
# A second request or token would move what its payer has spent by a minute.
RATED = Bounds(requests_per_min=1, tokens_per_min=1)

Operation = Callable[[str], Awaitable[Any]]


class Record(msgspec.Struct, frozen=True):
    """What a shelf keeps."""

    text: str


@dataclasses.dataclass
class Stage:
    """A server, and a broker over a whole link that brings it to where an operation begins."""

    valkey: Valkey
    broker: Broker

    async def submit(self, job: str = "j1", session: str | None = None) -> None:
        """A job waits."""
        submission = Submission(job, REQUEST, "g1", HOUR_MS, session=session)
        assert await self.broker.submit(submission, RATED) == "accepted"

    async def run(self, session: str | None = None) -> str:
        """A job runs, and has a token; its epoch."""
        await self.submit(session=session)
        (claim,) = await self.broker.claim(WHO, 1, 0)
        await self.broker.append([Append("j1", claim.epoch, 1, (A,))])
        # A mean time that one more job would move by far more than the time that the job of a test takes.
        self.valkey.client.hset("{p}:pace", MODEL, 16 * HOUR_MS)
        return claim.epoch

    async def give_up(self) -> None:
        """A job is a dead letter."""
        await self.submit()
        await self.broker.claim(WHO, 1, 0)
        await self.broker.leave("w1")
        assert await self.broker.claim(WHO, 1, 0) == []

    async def open(self) -> None:
        """A session is open."""
        await self.broker.open_session("s1", MODEL, 64, HOUR_MS, 9)

    async def put(self) -> None:
        """A record is kept."""
        await by_shelf(lambda shelf: shelf.put("me", "r1", Record("one")))(self.valkey.url)


def by_broker(act: Callable[[Broker], Awaitable[Any]], timing: Timing = TIMING) -> Operation:
    """What a process does whose broker is at some URL."""

    async def operation(url: str) -> Any:
        async with Broker(url, timing) as broker:
            return await act(broker)

    return operation


def by_shelf(act: Callable[[Shelf[Record]], Awaitable[Any]]) -> Operation:
    """Likewise, with records."""

    async def operation(url: str) -> Any:
        link = Link(url, Keys().prefix)
        try:
            return await act(Shelf(link, Keys(), "file", Record, HOUR_MS, 9))
        finally:
            await link.close()

    return operation


def by_letters(act: Callable[[DeadLetters], Any]) -> Operation:
    """Likewise, with jobs that were given up."""

    def operation(url: str) -> Any:
        with DeadLetters(url, TIMING) as letters:
            return act(letters)

    return lambda url: asyncio.to_thread(operation, url)


async def _submit(at: Stage) -> Operation:
    return by_broker(lambda broker: broker.submit(Submission("j1", REQUEST, "g1", HOUR_MS), RATED))


async def _attach(at: Stage) -> Operation:
    await at.run()
    return by_broker(lambda broker: broker.attach("j1", "g2", 0))


async def _note(at: Stage) -> Operation:
    await at.submit()
    return by_broker(lambda broker: broker.note("j1"))


async def _detach(at: Stage) -> Operation:
    await at.submit()
    return by_broker(lambda broker: broker.detach("j1", "g1"))


async def _cancel(at: Stage) -> Operation:
    await at.submit()
    return by_broker(lambda broker: broker.cancel("j1"))


async def _cancel_of_a_job_that_runs(at: Stage) -> Operation:
    await at.run()
    return by_broker(lambda broker: broker.cancel("j1"))


async def _positions(at: Stage) -> Operation:
    await at.submit()
    return by_broker(lambda broker: broker.positions("g1", ["j1", "j2"]))


async def _sweep(at: Stage) -> Operation:
    await at.submit()
    at.valkey.client.hset("{p}:job:j1", "deadline", 1)
    at.valkey.client.zadd("{p}:due", {"j1": 1})
    return by_broker(lambda broker: broker.sweep())


async def _sweep_of_a_job_that_nobody_follows(at: Stage) -> Operation:
    await at.run()
    at.valkey.client.zadd("{p}:due", {"j1": 1})
    return by_broker(lambda broker: broker.sweep())


async def _open_session(at: Stage) -> Operation:
    return by_broker(lambda broker: broker.open_session("s1", MODEL, 64, HOUR_MS, 1))


async def _session(at: Stage) -> Operation:
    await at.open()
    return by_broker(lambda broker: broker.session("s1"))


async def _close_session(at: Stage) -> Operation:
    await at.open()
    await at.run("s1")
    return by_broker(lambda broker: broker.close_session("s1"))


async def _announce(at: Stage) -> Operation:
    return by_broker(lambda broker: broker.announce("g1"))


async def _overview(at: Stage) -> Operation:
    await at.run()
    return by_broker(lambda broker: broker.overview([MODEL]))


async def _workers(at: Stage) -> Operation:
    await at.run()
    return by_broker(lambda broker: broker.live_workers([MODEL]))


async def _alive(at: Stage) -> Operation:
    await at.run()
    return by_broker(lambda broker: broker.is_alive("w"))


async def _census(at: Stage) -> Operation:
    await at.run()
    return by_broker(lambda broker: broker.census([MODEL]))


async def _claim(at: Stage) -> Operation:
    await at.submit()
    return by_broker(lambda broker: broker.claim(WHO, 1, 0))


async def _append(at: Stage) -> Operation:
    epoch = await at.run()
    return by_broker(lambda broker: broker.append([Append("j1", epoch, 2, (B,))]))


async def _append_of_the_ending(at: Stage) -> Operation:
    await at.open()
    epoch = await at.run("s1")
    commit = SessionCommit([5, 10, 11])
    return by_broker(lambda broker: broker.append([Append("j1", epoch, 2, (B,), DONE, commit)]))


async def _beat(at: Stage) -> Operation:
    epoch = await at.run()

    def beat(url: str) -> Any:
        heart = Heart(url, WHO, TIMING)
        try:
            return heart.beat([("j1", epoch), ("j2", epoch)], 3)
        finally:
            heart.close()

    return lambda url: asyncio.to_thread(beat, url)


async def _requeue(at: Stage) -> Operation:
    epoch = await at.run()
    return by_broker(lambda broker: broker.requeue(WHO, [("j1", epoch)]))


async def _evacuate(at: Stage) -> Operation:
    await at.open()
    await at.run("s1")
    return by_broker(lambda broker: broker.leave("w1"))


async def _reap(at: Stage) -> Operation:
    await at.run()
    at.valkey.client.delete("{p}:worker:w1")
    # A server that has just started takes no leases away.
    await until_async(lambda: at.valkey.client.info("server")["uptime_in_seconds"] > 0)
    return by_broker(lambda broker: broker.reap(), Timing(lease_ms=0))


async def _dead(at: Stage) -> Operation:
    await at.give_up()
    return by_letters(lambda letters: letters.all())


async def _requeue_dead(at: Stage) -> Operation:
    await at.give_up()
    return by_letters(lambda letters: letters.requeue("j1", HOUR_MS))


async def _drop_dead(at: Stage) -> Operation:
    await at.give_up()
    return by_letters(lambda letters: letters.drop("j1"))


async def _put_record(at: Stage) -> Operation:
    return by_shelf(lambda shelf: shelf.put("me", "r1", Record("one")))


async def _get_record(at: Stage) -> Operation:
    await at.put()
    return by_shelf(lambda shelf: shelf.get("r1"))


async def _replace_record(at: Stage) -> Operation:
    await at.put()
    return by_shelf(lambda shelf: shelf.change("r1", lambda _: Record("two")))


async def _list_records(at: Stage) -> Operation:
    await at.put()
    return by_shelf(lambda shelf: shelf.list("me", 9))


async def _drop_record(at: Stage) -> Operation:
    await at.put()
    return by_shelf(lambda shelf: shelf.drop("me", "r1"))


# Their names begin with those of their scripts.
SCENES: Mapping[str, Callable[[Stage], Awaitable[Operation]]] = {
    name.removeprefix("_"): scene
    for name, scene in list(globals().items())
    if name.startswith("_") and asyncio.iscoroutinefunction(scene)
}
SCRIPTS = sorted(
    path.stem for path in Path(lua.__file__).parent.glob("scripts/*.lua") if path.stem not in ("log", "prelude")
)
# What the second answer is where it is not the first one. A job whose claim nobody heard of goes on when its lease
# ends.
SECOND: Mapping[str, Any] = {
    "submit": "known",
    "claim": [],
    "requeue_dead": False,
    "drop_dead": False,
    "drop_record": False,
}
# What is written each time: how many slots the worker has that asks.
WRITTEN: Mapping[str, str] = {"claim": "{p}:worker:w1"}


def script_of(scene: str) -> str:
    """The script that the operation of a scene runs."""
    return max((script for script in SCRIPTS if scene == script or scene.startswith(f"{script}_of_")), key=len)


def masked(value: Any, now_ms: float) -> Any:
    """Moments rounded, and what is random left out."""
    text = re.sub(r"\b(\d+):[0-9a-f]{16}\b", r"\1:random", repr(value))
    text = re.sub(r"\b1\d{15}\b", "time", text)  # in microseconds, for an order
    text = re.sub(r"\b(1\d{12})-\d+\b", "entry", text)
    return re.sub(r"\b1\d{12}(\.\d+)?\b", lambda found: f"{round((float(found[0]) - now_ms) / ROUND_MS)} times", text)


def dump(valkey: Valkey, now_ms: float) -> dict[str, str]:
    """All that is on the server, masked, and about how long each key lives; streams only where something is in them."""
    client: Any = valkey.client
    readers: dict[bytes, Callable[[bytes], Any]] = {
        b"string": client.get,
        b"hash": lambda key: sorted(client.hgetall(key).items()),
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": lambda key: sorted(client.smembers(key)),
        b"zset": lambda key: [(member, int(score)) for member, score in client.zrange(key, 0, -1, withscores=True)],
        b"stream": lambda key: (client.xrange(key), _pending(client, key)),
    }
    found = {}
    for key in client.scan_iter():
        value = readers[client.type(key)](key)
        if key == b"{p}:pace":
            value = [(model, round(float(mean) / HOUR_MS)) for model, mean in value]
        if value == ([], []):
            continue
        found[str(key, "ascii")] = f"{masked(value, now_ms)}, life {round(client.pttl(key) / ROUND_MS)}"
    return found


def _pending(client: Any, stream: bytes) -> Any:
    groups = [group["name"] for group in client.xinfo_groups(stream)]
    rows = [row for group in groups for row in client.xpending_range(stream, group, "-", "+", 100)]
    return [(row["message_id"], row["consumer"], row["times_delivered"]) for row in rows]


@pytest.fixture
async def proxy(valkey: Valkey) -> AsyncIterator[Proxy]:
    async with Proxy(valkey.port) as proxy:
        yield proxy


async def after(scene: str, valkey: Valkey, url: str) -> tuple[Any, dict[str, str]]:
    """What the operation gives, and what the broker holds then, on an empty server."""
    valkey.client.flushall()
    for script in SCRIPTS:
        valkey.client.script_load(lua.script(script).text)
    seconds, microseconds = valkey.client.time()
    now_ms = 1000 * seconds + microseconds / 1000
    async with Broker(valkey.url, TIMING) as broker:
        operation = await SCENES[scene](Stage(valkey, broker))
    answer = await operation(url)
    return answer, dump(valkey, now_ms)


def test_there_is_a_scene_for_every_script() -> None:
    assert sorted({script_of(scene) for scene in SCENES}) == SCRIPTS


@pytest.mark.parametrize("scene", SCENES)
async def test_an_operation_that_is_sent_twice_happens_once(valkey: Valkey, proxy: Proxy, scene: str) -> None:
    once = await after(scene, valkey, valkey.url)
    sha = lua.script(script_of(scene)).sha.encode()
    proxy.lose_replies_to([sha])
    twice = await after(scene, valkey, proxy.url)
    assert proxy.lost == {sha}
    for _, left in (once, twice):
        left.pop(WRITTEN.get(scene, ""), None)
    assert twice[1] == once[1]
    assert masked(twice[0], now_ms=0) == masked(SECOND.get(scene, once[0]), now_ms=0)
