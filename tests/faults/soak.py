"""`python -m tests.faults.soak`: answers are read for hours while something breaks every few seconds.

At the end: answers that were not what they must be, keys that are left, and how the memory of the processes grew that
were never killed. The first gateway and the first worker are those; links, broker and all others break.
"""

import argparse
import asyncio
import dataclasses
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import psutil

from shared.api_keys import ApiKeys
from shared.keys import Keys
from shared.link import Link
from tests.dialogue import Reply
from tests.faults.conftest import LEASE_S, SEED, Stack, running_stack, start
from tests.faults.proxy import Loss
from tests.faults.reader import Reader
from tests.services import Service

STREAMS = 16
PERIOD_S = 10.0
# What a process may grow in an hour, once it has run for half the time.
MAX_MB_PER_HOUR = 16.0
LONGEST_ANSWER_S = 300.0
PEPPER = "soak" * 8
# Of each key in a minute.
HIGH_RATE = 10_000_000

Fault = Callable[[Stack, random.Random], Awaitable[None]]


@dataclasses.dataclass
class Soak:
    """What was seen. answers, tokens: that were read; wrong: of those that were not exact, seed and what was said.

    trespasses: that were refused; stolen: what was heard at the others. mb: resident memory in MB (10**6 bytes) by
    process, each at a second of the run.
    """

    answers: int = 0
    tokens: int = 0
    hits: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)
    trespasses: int = 0
    stolen: list[str] = dataclasses.field(default_factory=list)
    faults: Counter[str] = dataclasses.field(default_factory=Counter)
    mb: dict[str, list[tuple[float, float]]] = dataclasses.field(default_factory=dict)

    def take(self, reader: Reader) -> None:
        """An answer was read."""
        self.answers, self.tokens, self.hits = self.answers + 1, self.tokens + reader.position, self.hits + reader.hits
        if not reader.exact:
            self.wrong.append(f"seed {reader.seed}, {reader.position} of {reader.tokens} tokens: {reader.failure}")

    def refuse(self, reader: Reader, reply: Reply) -> None:
        """Somebody else asked for an answer, and heard this."""
        if not reply["ok"] and "does not exist" in reply["traceback"]:
            self.trespasses += 1
        else:
            self.stolen.append(f"seed {reader.seed}: {reply}")

    def slopes(self) -> dict[str, float]:
        """MB an hour by process, in the second half of the time: least squares."""
        found = {}
        for name, samples in self.mb.items():
            late = samples[len(samples) // 2 :]
            if len(late) > 1:
                found[name] = statistics.linear_regression(*zip(*late, strict=True)).slope * 3600
        return found


async def _kill(stack: Stack, dice: random.Random) -> None:
    victim = _victim(stack, dice)
    await asyncio.to_thread(victim.kill)
    await asyncio.sleep(dice.uniform(0, 3))


async def _terminate(stack: Stack, dice: random.Random) -> None:
    await asyncio.to_thread(_victim(stack, dice).terminate)


async def _stop_and_continue(stack: Stack, dice: random.Random) -> None:
    with stack.stopped([dice.choice(stack.workers)]):
        await asyncio.sleep(LEASE_S * dice.uniform(0.5, 2))


async def _reset(stack: Stack, dice: random.Random) -> None:
    for _ in range(dice.randint(1, 8)):
        stack.proxy.reset(subscriptions_only=dice.random() < 0.5)
        await asyncio.sleep(dice.uniform(0.1, 0.5))


async def _swallow(stack: Stack, dice: random.Random) -> None:
    with stack.proxy.black_hole():
        await asyncio.sleep(dice.uniform(0.5, 10))


async def _slow_down(stack: Stack, dice: random.Random) -> None:
    stack.proxy.delay_s = dice.uniform(0.005, 0.1)
    await asyncio.sleep(dice.uniform(1, 5))


async def _lose_replies(stack: Stack, dice: random.Random) -> None:
    stack.proxy.lose(Loss(dice.randint(1, 50), count=dice.randint(1, 5), after=dice.randint(0, 9)))
    await asyncio.sleep(2)


async def _half_close(stack: Stack, _: random.Random) -> None:
    stack.proxy.half_close()


async def _kill_broker(stack: Stack, dice: random.Random) -> None:
    stack.valkey.kill()
    await asyncio.sleep(dice.uniform(0, 2))


FAULTS: tuple[Fault, ...] = (
    _kill,
    _terminate,
    _stop_and_continue,
    _reset,
    _swallow,
    _slow_down,
    _lose_replies,
    _half_close,
    _kill_broker,
)


def _victim(stack: Stack, dice: random.Random) -> Service:
    """A service that may end."""
    services: list[Service] = [*stack.gateways[1:], *stack.workers[1:]]
    return dice.choice(services)


async def _read(stack: Stack, soak: Soak, keys: Sequence[str], dice: random.Random, end: float) -> None:
    while time.monotonic() < end:
        own, other = dice.sample(keys, 2)
        reader = Reader(stack.urls, dice.randrange(2**62), dice.randint(50, 400), own)
        try:
            async with asyncio.timeout(LONGEST_ANSWER_S), asyncio.TaskGroup() as group:
                group.create_task(reader.read())
                await asyncio.sleep(dice.uniform(0.1, 1))
                if reply := await reader.trespass(other):
                    soak.refuse(reader, reply)
        except TimeoutError:
            reader.failure = "it does not end"
        soak.take(reader)


async def _make_keys(stack: Stack) -> list[str]:
    link, keys = Link(stack.valkey.url, Keys().prefix), Keys()
    try:
        return [await ApiKeys(link, keys, PEPPER).create(name, ("generate",)) for name in ("ann", "bob", "cleo")]
    finally:
        await link.close()


async def _break(stack: Stack, soak: Soak, dice: random.Random, end: float) -> None:
    while time.monotonic() < end:
        await asyncio.sleep(dice.uniform(0.2, 1.5) * PERIOD_S)
        fault = dice.choice(FAULTS)
        soak.faults[fault.__name__.strip("_")] += 1
        await fault(stack, dice)
        stack.proxy.heal()
        await start(stack)


async def _weigh(stack: Stack, soak: Soak, end: float) -> None:
    kept = {"gateway": stack.gateways[0].process, "worker": stack.workers[0].process}
    began = time.monotonic()
    while time.monotonic() < end:
        for name, process in kept.items():
            assert process is not None
            megabytes = psutil.Process(process.pid).memory_info().rss / 1e6
            soak.mb.setdefault(name, []).append((time.monotonic() - began, megabytes))
        await asyncio.sleep(PERIOD_S)


async def _run(folder: Path, minutes: float, dice: random.Random) -> bool:
    """Whether all was well."""
    soak = Soak()
    async with running_stack(
        folder, workers=3, auth="on", key_pepper=PEPPER, requests_per_min=HIGH_RATE, tokens_per_min=HIGH_RATE
    ) as stack:
        keys = await _make_keys(stack)
        end = time.monotonic() + 60 * minutes
        async with asyncio.TaskGroup() as group:
            group.create_task(_break(stack, soak, dice, end))
            group.create_task(_weigh(stack, soak, end))
            for _ in range(STREAMS):
                group.create_task(_read(stack, soak, keys, random.Random(dice.random()), end))
        return _report(soak, await stack.settled(), minutes)


def _report(soak: Soak, leaked: set[str], minutes: float) -> bool:
    """Print it; whether all is well."""
    slopes = soak.slopes()
    print(f"minutes            {minutes:g}")
    print(f"answers            {soak.answers}, {soak.tokens} tokens, {soak.hits} connections lost")
    print(f"faults             {soak.faults.total()}: {', '.join(f'{n} {name}' for name, n in soak.faults.items())}")
    for name, samples in soak.mb.items():
        last = samples[-1][1]
        print(f"memory of {name:8} {samples[0][1]:.1f} to {last:.1f} MB, {slopes.get(name, 0.0):+.1f} MB an hour")
    print(f"leaked keys        {len(leaked)} {sorted(leaked)[:5] or ''}")
    print(f"with wrong keys    {soak.trespasses} refused, {len(soak.stolen)} not {soak.stolen[:5] or ''}")
    print(f"not exact          {len(soak.wrong)} {soak.wrong[:5] or ''}")
    # Half an hour is too short for a slope, in which caches fill.
    grows = minutes >= 60 and max(slopes.values()) > MAX_MB_PER_HOUR
    return not (soak.wrong or soak.stolen or leaked or grows)


def main() -> int:
    """Exit status 1 where something was lost, left or grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description="Break things for hours.")
    parser.add_argument("--minutes", type=float, default=120, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=SEED, help="default: COROLLA_SEED, or any")
    arguments = parser.parse_args()
    print(f"COROLLA_SEED={arguments.seed}, process {os.getpid()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="corolla-soak-") as folder:
        good = asyncio.run(_run(Path(folder), arguments.minutes, random.Random(arguments.seed)))
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
