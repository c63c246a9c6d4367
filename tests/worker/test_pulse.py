"""The beat keeps leases alive while the worker is fit, and only then."""

import asyncio
import dataclasses
import time

import pytest

from shared.heart import Heart
from shared.keys import Timing
from shared.messages import FinishReason, JobFinished
from tests.valkey import Valkey
from tests.waiting import until, until_async
from tests.worker.alphabets import byte_level
from tests.worker.desk import desk
from tests.worker.scripted import ScriptedBackend
from worker.pulse import Pulse

pytestmark = pytest.mark.anyio

TIMING = Timing(lease_ms=60_000, beat_s=0.05)


def lives(valkey: Valkey) -> bool:
    return bool(valkey.client.exists("{p}:worker:w1"))


def idle_ms(valkey: Valkey) -> int:
    """How long the only pending entry has not been heard of."""
    (entry,) = valkey.client.xpending_range("{p}:ready:corolla/test:interactive", "workers", "-", "+", 10)
    return int(entry["time_since_delivered"])


def lapse(valkey: Valkey) -> None:
    """The worker, and its only entry, have not been heard of for a lease."""
    valkey.client.delete("{p}:worker:w1")
    stream = "{p}:ready:corolla/test:interactive"
    (entry,) = valkey.client.xpending_range(stream, "workers", "-", "+", 10)
    valkey.client.xclaim(stream, "workers", "w1", 0, [entry["message_id"]], idle=TIMING.lease_ms)


def hanging() -> ScriptedBackend:
    model = ScriptedBackend(byte_level(), "abc")
    model.free_steps = 0
    return model


async def test_a_busy_event_loop_costs_no_lease(valkey: Valkey) -> None:
    async with desk(valkey, hanging(), timing=TIMING) as at:
        await at.start(max_new_tokens=3)
        async with Pulse(Heart(valkey.url, at.who, TIMING), at.engine, TIMING.beat_s, stuck_s=10):
            # when the loop does nothing else while the lease comes to its end, over and over
            for _ in range(3):
                lapse(valkey)
                # then the worker and its job are kept
                until(lambda: lives(valkey) and idle_ms(valkey) < TIMING.lease_ms)


async def test_a_loop_that_is_stuck_lets_its_leases_go(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    # given that nobody ends this process, should the loop hang for longer than it must
    monkeypatch.setattr(Pulse, "_give_up", lambda _: None)
    timing = dataclasses.replace(TIMING, lease_ms=300)
    async with desk(valkey, hanging(), timing=timing) as at:
        await at.start(max_new_tokens=3)
        async with Pulse(Heart(valkey.url, at.who, timing), at.engine, timing.beat_s, stuck_s=1):
            await until_async(lambda: idle_ms(valkey) < 40)
            # when the loop hangs
            until(lambda: not lives(valkey))
            assert idle_ms(valkey) >= timing.lease_ms
            # and beats again when it goes on
            await until_async(lambda: lives(valkey))


async def test_a_loop_that_answers_is_none_that_hangs_however_short_a_step_may_be(valkey: Valkey) -> None:
    async with (
        desk(valkey, hanging(), timing=TIMING) as at,
        Pulse(Heart(valkey.url, at.who, TIMING), at.engine, TIMING.beat_s, stuck_s=TIMING.beat_s / 4),
    ):
        for _ in range(3):
            valkey.client.delete("{p}:worker:w1")
            await until_async(lambda: lives(valkey))


async def test_a_beat_that_fails_ends_the_worker(valkey: Valkey) -> None:
    async with desk(valkey, hanging(), timing=TIMING) as at:
        # given a broker that does not understand the worker
        valkey.client.set("{p}:workers", "no set")
        async with Pulse(Heart(valkey.url, at.who, TIMING), at.engine, TIMING.beat_s, stuck_s=10):
            await asyncio.wait_for(at.engine.hung.wait(), 30)


async def test_a_beat_brings_back_what_was_lost_and_what_is_to_end(valkey: Valkey) -> None:
    # given two jobs in their first step
    model = hanging()
    async with desk(valkey, model, timing=TIMING) as at:
        lost, unwanted = await at.start(max_new_tokens=3), await at.start(max_new_tokens=3)
        await until_async(lambda: model.steps == 2)
        # when one is taken away, and the other is cancelled while nobody listens
        leases = dict(at.engine.leases())
        await at.broker.cancel(unwanted)
        await at.broker.requeue(at.who, [(lost, leases[lost])])
        async with Pulse(Heart(valkey.url, at.who, TIMING), at.engine, TIMING.beat_s, stuck_s=10):
            await until_async(lambda: at.engine.leases() == [(unwanted, leases[unwanted])])
        # then both end with their step, and one says so
        model.released.set()
        assert await at.result(unwanted) == ("", JobFinished(FinishReason.CANCELLED, 1, 0))
        assert await at.log(lost) == ([], None)


async def test_no_beat_after_the_end(valkey: Valkey) -> None:
    async with desk(valkey, hanging(), timing=TIMING) as at:
        async with Pulse(Heart(valkey.url, at.who, TIMING), at.engine, TIMING.beat_s, stuck_s=10):
            await until_async(lambda: lives(valkey))
        # when the worker has signed off
        await at.broker.leave("w1")
        end = time.monotonic() + 3 * TIMING.beat_s
        while time.monotonic() < end:
            assert not lives(valkey)
            await asyncio.sleep(0)
