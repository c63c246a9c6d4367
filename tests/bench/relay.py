"""`python -m tests.bench.relay`: tokens through one gateway process: how many at most, and how late they come.

How many: the oracle's worker writes as many streams as it can, without any time for a step. How late: tokens are
appended at random moments (a Poisson process) at a given rate, and timed from there to the frame at the client.
Broker, worker, gateway and client share this machine's cores.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import uvloop

from shared.broker import Broker
from shared.keys import Timing
from shared.messages import FinishReason, JobFinished, Token
from shared.records import Append, Claim, Registration
from tests.bench.rate import Meter
from tests.bench.stack import MODEL, Stack, running_stack
from tests.bench.stream import Stream, connect
from worker.oracle_backend import text

TOKENS_PER_S, P50_MS, P99_MS = 15_000.0, 1.0, 10.0  # at least, at most, at most
TIMING = Timing(lease_ms=600_000)


@dataclasses.dataclass(frozen=True)
class Report:
    """rates: tokens a second of each run. cpu_us: the last run's microseconds of CPU per token, by process.

    late: tokens that were timed; p50, p99, longest: milliseconds from the append to the client.
    """

    streams: int
    tokens: int
    rates: tuple[float, ...]
    cpu_us: dict[str, float]
    wrong: int
    rate: float
    late: int
    p50: float
    p99: float
    longest: float
    cores: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    python: str = dataclasses.field(default_factory=platform.python_version)

    @property
    def good(self) -> bool:
        """Whether it is as fast as it must be."""
        fast = statistics.median(self.rates) >= TOKENS_PER_S
        return fast and self.p50 <= P50_MS and self.p99 <= P99_MS and not self.wrong

    def as_table(self) -> str:
        """For people to read."""
        costs = ", ".join(f"{name} {cost:.1f}" for name, cost in self.cpu_us.items())
        return "\n".join(
            [
                f"{self.cores} cores, python {self.python}",
                f"{self.streams} streams of {self.tokens} tokens: {statistics.median(self.rates):.0f} tokens/s "
                f"({min(self.rates):.0f}..{max(self.rates):.0f}; at least {TOKENS_PER_S:.0f}), wrong {self.wrong}",
                f"CPU, microseconds a token: {costs}",
                f"at {self.rate:.0f} tokens/s, ms from append to client: p50 {self.p50:.2f} (at most {P50_MS:g}), "
                f"p99 {self.p99:.2f} (at most {P99_MS:g}), longest {self.longest:.2f}, of {self.late}",
            ]
        )


def seeds(streams: int, tokens: int) -> list[int]:
    """Seeds of answers that can be ended by their last token, as that occurs nowhere before."""
    found: list[int] = []
    seed = 0
    while len(found) < streams:
        seed += 1
        if text(seed, 0, tokens).index(text(seed, tokens - 1, 1)) == len(text(seed, 0, tokens - 1)):
            found.append(seed)
    return found


async def measure_rate(stack: Stack, streams: int, tokens: int) -> tuple[float, dict[str, float], int]:
    """Tokens a second, microseconds of CPU a token, and how many answers were wrong."""
    meter = Meter(stack.cpu_s, streams * tokens)
    asked = {seed: await connect(stack.gateway.url, partial(Stream, meter.took)) for seed in seeds(streams, tokens)}
    for seed, stream in asked.items():
        stop = text(seed, tokens - 1, 1)
        await stream.ask(inputs="hi", max_new_tokens=1, stop_sequence=stop, seed=seed)
    wrong = [seed for seed, stream in asked.items() if await stream.text() != text(seed, 0, tokens)]
    return *meter.result(), len(wrong)


class Writer:
    """Appends tokens to the jobs of some streams, and knows when."""

    def __init__(self, broker: Broker, claims: list[Claim]) -> None:
        self._broker = broker
        self._claims = claims
        self.sent: list[list[float]] = [[] for _ in claims]

    async def write(self, rate: float, seconds: float) -> None:
        """At random moments, so many a second; after that time each stream's next token is its last, at that rate.

        What falls due while an append is under way goes with the next one.
        """
        draw = random.Random(0)
        clock = time.monotonic
        going = list(range(len(self._claims)))
        due, end = clock(), clock() + seconds
        while going:
            await asyncio.sleep(max(0, due - clock()))
            rows: dict[int, bool] = {}
            while going and due <= clock():
                row = draw.choice(going)
                rows[row] = due > end
                if rows[row]:
                    going.remove(row)
                due += draw.expovariate(rate)
            if rows:
                await self._broker.append([self._token(row, ends) for row, ends in rows.items()])

    def _token(self, row: int, ends: bool) -> Append:
        sent, claim = self.sent[row], self._claims[row]
        sent.append(time.monotonic())
        ending = JobFinished(FinishReason.STOP, 1, len(sent)) if ends else None
        return Append(claim.job, claim.epoch, len(sent), (Token(300, "abcd "),), ending, None)


async def measure_delay(stack: Stack, streams: int, rate: float, seconds: float) -> list[float]:
    """Milliseconds that each token took."""
    who = Registration("bench", (MODEL,), streams)
    claims: list[Claim] = []
    asked: list[tuple[Stream, list[float]]] = []
    async with Broker(stack.valkey.url, TIMING) as broker:
        await broker.claim(who, 0, 0)
        for _ in range(streams):
            came: list[float] = []
            stream = await connect(stack.gateway.url, partial(Stream, _stamping(came)))
            await stream.ask(inputs="hi", max_new_tokens=1, stop_sequence="###")
            claims += await broker.claim(who, 1, 10_000)
            asked.append((stream, came))
        writer = Writer(broker, claims)
        await writer.write(rate, seconds)
        for stream, _ in asked:
            await stream.text()
    rows = zip(writer.sent, (came for _, came in asked), strict=True)
    return [1000 * (to - since) for sent, came in rows for since, to in zip(sent, came, strict=True)]


def _stamping(came: list[float]) -> Callable[[int], None]:
    return lambda tokens: came.extend([time.monotonic()] * tokens)


async def measure(options: argparse.Namespace) -> Report:
    """Both figures, each with a stack of its own."""
    with running_stack(slots=options.streams) as stack:
        runs = [await measure_rate(stack, options.streams, options.tokens) for _ in range(options.runs)]
    with running_stack(slots=0) as stack:
        late = sorted(await measure_delay(stack, options.streams, options.rate, options.seconds))
    percentiles = statistics.quantiles(late, n=100)
    return Report(
        streams=options.streams,
        tokens=options.tokens,
        rates=tuple(rate for rate, _, _ in runs),
        cpu_us=runs[-1][1],
        wrong=sum(wrong for _, _, wrong in runs),
        rate=options.rate,
        late=len(late),
        p50=percentiles[49],
        p99=percentiles[98],
        longest=late[-1],
    )


def main() -> int:
    """Run it; the exit status is 1 where a figure is worse than it must be."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.relay",
        description="Measure how many tokens one gateway relays, and how late they come.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--streams", type=int, default=256, help="answers at the same time")
    parser.add_argument("--tokens", type=int, default=400, help="tokens of each answer")
    parser.add_argument("--runs", type=int, default=5, help="how often the rate is measured")
    parser.add_argument("--rate", type=float, default=2000, help="tokens a second while their delay is measured")
    parser.add_argument("--seconds", type=float, default=20, help="how long the delay is measured")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    report = uvloop.run(measure(options))
    print(json.dumps(dataclasses.asdict(report)) if options.json else report.as_table())
    return int(not report.good)


if __name__ == "__main__":
    sys.exit(main())
