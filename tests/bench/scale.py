"""`python -m tests.bench.scale`: what a second worker and a second gateway add, where a step takes 50 ms.

Workers: more streams than two workers have slots for; the tokens per second are those of the slots.

Gateways: each is asked for more streams than it can carry, and the tokens count that come to clients. A gateway fills
one core, and all processes share those of this machine; so each gateway is slowed down to a share of a core, as two
cores would have no room for two gateways that are full.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import uvloop

from tests.bench.cpu import cpu_s
from tests.bench.rate import Meter
from tests.bench.readers import read_all
from tests.bench.slowed import slowed
from tests.services import Gateway, Service, Worker
from tests.valkey import Valkey
from tests.waiting import until

GAIN = 1.8  # at least
SHARE = 0.1  # of a core, for each gateway, where gateways are compared
FULL = 0.9  # a gateway with less of the model's pace than that has more streams than it can carry
STEP_MS = 50
CATALOG = f"""
[[families]]
name = "Oracle"
[[families.models]]
repository = "corolla/oracle"
name = "Oracle"
backend = "oracle"
step_ms = {STEP_MS}
"""


@dataclasses.dataclass(frozen=True)
class Run:
    """What so many workers and gateways did. wrong: streams with a token missing, twice or out of place.

    tokens_per_s: as they came to clients, while all streams were under way. pace: that, of what the model gives to all
    streams at once. gateway_us: CPU time of a gateway per token. gateway_percent: of a core, each gateway; cores: that
    all processes used, this one too.
    """

    workers: int
    gateways: int
    streams: int
    tokens_per_s: float
    pace: float
    gateway_us: float
    gateway_percent: float
    cores: float
    wrong: int


@dataclasses.dataclass(frozen=True)
class Report:
    """All runs, in the order in which they were made."""

    workers: tuple[Run, ...]
    gateways: tuple[Run, ...]
    step_ms: int = STEP_MS
    cores: int = dataclasses.field(default_factory=lambda: len(os.sched_getaffinity(0)))
    python: str = dataclasses.field(default_factory=platform.python_version)

    @property
    def worker_gain(self) -> float:
        """Tokens per second of two workers over those of one."""
        one, two = (_rate(run for run in self.workers if run.workers == number) for number in (1, 2))
        return two / one

    @property
    def gateway_gain(self) -> float:
        """Streams that two gateways carried over those that one did, by their tokens per second."""
        one, two = (_rate(run for run in self.gateways if run.gateways == number) for number in (1, 2))
        return two / one

    @property
    def good(self) -> bool:
        """Whether nothing was wrong, all gateways were full, and both gains are what they must be."""
        wrong = sum(run.wrong for run in (*self.workers, *self.gateways))
        full = all(run.pace < FULL for run in self.gateways)
        return not wrong and full and min(self.worker_gain, self.gateway_gain) >= GAIN

    def as_json(self) -> str:
        """One object."""
        gains = {"worker_gain": self.worker_gain, "gateway_gain": self.gateway_gain}
        return json.dumps(dataclasses.asdict(self) | gains)

    def as_table(self) -> str:
        """For people to read."""
        names = [field.name for field in dataclasses.fields(Run)]
        lines = [f"{self.cores} cores, python {self.python}, {self.step_ms} ms a step", "".join(map(_cell, names))]
        for run in (*self.workers, *self.gateways):
            lines.append("".join(_cell(f"{each:.4g}") for each in dataclasses.astuple(run)))
        lines.append(f"two workers: {self.worker_gain:.2f}x the tokens/s of one (at least {GAIN})")
        lines.append(f"two gateways: {self.gateway_gain:.2f}x the streams of one (at least {GAIN})")
        return "\n".join(lines)


def _rate(runs: Iterable[Run]) -> float:
    return statistics.median(run.tokens_per_s for run in runs)


def _cell(text: str) -> str:
    return f"{text:>15}"


class Stack:
    """A broker with so many workers and gateways; all of them run."""

    def __init__(self, folder: Path, workers: int, gateways: int, slots: int) -> None:
        catalog = folder / "catalog.toml"
        catalog.write_text(CATALOG)
        self.valkey = Valkey(folder)
        url = self.valkey.url
        self.workers = [Worker(folder / f"worker-{n}.log", url, catalog, slots=slots) for n in range(workers)]
        self.gateways = [
            Gateway(folder / f"gateway-{n}.log", url, catalog, files=str(folder / "files")) for n in range(gateways)
        ]

    def cpu_s(self) -> dict[str, float]:
        """Seconds of CPU that all of a kind have used."""
        broker = cpu_s(self.valkey.client.info("server")["process_id"])
        return {"gateway": _used_s(self.gateways), "worker": _used_s(self.workers), "broker": broker}


def _used_s(services: Iterable[Service]) -> float:
    return sum(cpu_s(each.process.pid) for each in services if each.process)


@contextlib.contextmanager
def running(workers: int, gateways: int, slots: int) -> Iterator[Stack]:
    """A stack of its own, for one run."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as exits:
        stack = Stack(Path(name), workers, gateways, slots)
        stack.valkey.start()
        exits.callback(stack.valkey.stop)
        exits.callback(stack.valkey.client.close)
        for service in (*stack.workers, *stack.gateways):
            exits.callback(service.kill)
            service.start()
        for gateway in stack.gateways:
            until(gateway.is_ready)
        yield stack


def measure(stack: Stack, streams: int, tokens: int) -> Run:
    """Read so many streams at once, after a few that warm up."""
    urls = [gateway.url for gateway in stack.gateways]
    uvloop.run(read_all(urls, len(urls), 5))
    meter = Meter(stack.cpu_s, streams * tokens)
    answers = uvloop.run(read_all(urls, streams, tokens, meter.took))
    rate, cpu_us = meter.result()
    return Run(
        workers=len(stack.workers),
        gateways=len(urls),
        streams=streams,
        tokens_per_s=rate,
        pace=rate * STEP_MS / 1000 / streams,
        gateway_us=cpu_us["gateway"],
        gateway_percent=cpu_us["gateway"] * rate / 10_000 / len(urls),
        cores=sum(cpu_us.values()) * rate / 1_000_000,
        wrong=sum(not answer.is_whole(tokens) for answer in answers),
    )


def compare(rounds: int, slots: int, streams: int, tokens: int) -> Report:
    """One and two of each in turn, so often."""
    workers, gateways = [], []
    for number in [1, 2] * rounds:
        with running(number, 1, slots) as stack:
            workers.append(_told(measure(stack, 4 * slots, tokens)))
    for number in [1, 2] * rounds:
        with running(2, number, 2 * streams) as stack, contextlib.ExitStack() as slowing:
            for gateway in stack.gateways:
                assert gateway.process
                slowing.enter_context(slowed(gateway.process.pid, SHARE))
            gateways.append(_told(measure(stack, number * streams, 2 * tokens)))
    return Report(tuple(workers), tuple(gateways))


def _told(run: Run) -> Run:
    print(run, file=sys.stderr, flush=True)
    return run


def main() -> int:
    """Run it; the exit status is 1 where a gain is less than it must be, or a stream was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.scale",
        description="Compare two workers with one, and two gateways with one.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument("--slots", type=int, default=16, help="of a worker, where workers are compared")
    parser.add_argument("--streams", type=int, default=150, help="of a gateway, where gateways are compared")
    parser.add_argument("--tokens", type=int, default=60, help="of each stream; twice as many for gateways")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    report = compare(options.rounds, options.slots, options.streams, options.tokens)
    print(report.as_json() if options.json else report.as_table())
    return int(not report.good)


if __name__ == "__main__":
    sys.exit(main())
