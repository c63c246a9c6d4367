"""`python -m tests.bench.scale`: what a second worker and a second gateway add, where a step takes 50 ms.

Workers: more streams than two workers have slots for; the tokens per second are those of the slots.

Gateways: each carries the same number of streams, at the pace of the model. How many it could carry is limited by the
one core that its event loop may use, so a gateway's capacity is its streams over its share of a core. It is reckoned
like that because the machine need not have a core for each process; that no stream was slower is seen besides.
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
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

from tests.bench.cpu import cpu_s
from tests.bench.readers import read_all
from tests.services import Gateway, Worker
from tests.valkey import Valkey
from tests.waiting import until

GAIN = 1.8  # at least
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

    pace: the time that the model needs for an answer, over that from the first request to the last answer's end.
    capacity: streams that all gateways could carry, each with a core to itself. gateway_ms: CPU time of gateways per
    token. client_percent: CPU time of this process, of the gateways'.
    """

    workers: int
    gateways: int
    streams: int
    tokens_per_s: float
    pace: float
    capacity: float
    gateway_ms: float
    client_percent: float
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
        rates = [[run.tokens_per_s for run in self.workers if run.workers == number] for number in (1, 2)]
        return statistics.median(rates[1]) / statistics.median(rates[0])

    @property
    def gateway_gain(self) -> float:
        """Streams of two gateways over those of one."""
        streams = [[run.capacity for run in self.gateways if run.gateways == number] for number in (1, 2)]
        return statistics.median(streams[1]) / statistics.median(streams[0])

    @property
    def good(self) -> bool:
        """Whether nothing was wrong, and both gains are what they must be."""
        wrong = sum(run.wrong for run in (*self.workers, *self.gateways))
        return not wrong and min(self.worker_gain, self.gateway_gain) >= GAIN

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

    def gateways_cpu_s(self) -> list[float]:
        """CPU time that each gateway has used."""
        return [cpu_s(gateway.process.pid) for gateway in self.gateways if gateway.process]


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
    before, own_s, began = stack.gateways_cpu_s(), time.process_time(), time.monotonic()
    answers = uvloop.run(read_all(urls, streams, tokens))
    took_s, own_s = time.monotonic() - began, time.process_time() - own_s
    used_s = [after - each for after, each in zip(stack.gateways_cpu_s(), before, strict=True)]
    return Run(
        workers=len(stack.workers),
        gateways=len(urls),
        streams=streams,
        tokens_per_s=streams * tokens / took_s,
        pace=tokens * STEP_MS / 1000 / took_s,
        capacity=sum(streams / len(urls) * tokens * STEP_MS / 1000 / each for each in used_s),
        gateway_ms=1000 * sum(used_s) / (streams * tokens),
        client_percent=100 * own_s / sum(used_s),
        wrong=sum(not answer.is_whole(tokens) for answer in answers),
    )


def compare(rounds: int, slots: int, streams: int, tokens: int) -> Report:
    """One and two of each in turn, so often."""
    workers, gateways = [], []
    for number in [1, 2] * rounds:
        with running(number, 1, slots) as stack:
            workers.append(measure(stack, 4 * slots, tokens))
            _tell(workers[-1])
    for number in [1, 2] * rounds:
        with running(2, number, 2 * streams) as stack:
            gateways.append(measure(stack, number * streams, 2 * tokens))
            _tell(gateways[-1])
    return Report(tuple(workers), tuple(gateways))


def _tell(run: Run) -> None:
    print(run, file=sys.stderr, flush=True)


def main() -> int:
    """Run it; the exit status is 1 where a gain is less than it must be, or a stream was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.scale",
        description="Compare two workers with one, and two gateways with one.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument("--slots", type=int, default=16, help="of a worker, where workers are compared")
    parser.add_argument("--streams", type=int, default=24, help="of a gateway, where gateways are compared")
    parser.add_argument("--tokens", type=int, default=60, help="of each stream; twice as many for gateways")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    report = compare(options.rounds, options.slots, options.streams, options.tokens)
    print(report.as_json() if options.json else report.as_table())
    return int(not report.good)


if __name__ == "__main__":
    sys.exit(main())
