"""`python -m tests.bench.first_byte`: how long a stream's first byte takes, without the model's own time.

The oracle's steps take none. Gateway, worker and broker share one core; the client, on another where there is one,
sends requests at fixed times, whether or not answers have come.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from tests.bench.stack import running_stack

P50_MS, P99_MS = 5.0, 20.0  # at most
BODY = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 16}).encode()
WARM_UP = 20  # requests


@dataclasses.dataclass(frozen=True)
class Report:
    """Milliseconds from a request to the first byte of its stream, of those that were answered to the end."""

    rate: float
    answered: int
    failed: int
    p50: float
    p99: float
    longest: float
    cores: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    python: str = dataclasses.field(default_factory=platform.python_version)

    @property
    def good(self) -> bool:
        """Whether it is as fast as it must be."""
        return self.p50 <= P50_MS and self.p99 <= P99_MS and not self.failed

    def as_table(self) -> str:
        """For people to read."""
        lines = [
            f"{self.cores} cores (one for gateway, worker and broker), python {self.python}",
            f"requests/s {self.rate:g}, answered {self.answered}, failed {self.failed}",
            f"first byte, ms: p50 {self.p50:.2f} (at most {P50_MS:g}), p99 {self.p99:.2f} (at most {P99_MS:g}), "
            f"longest {self.longest:.2f}",
        ]
        return "\n".join(lines)


class Caller:
    """Calls over connections that are kept."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname
        assert address.port
        self._host, self._port = address.hostname, address.port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(BODY)}\r\n\r\n"
        self._request = head.encode() + BODY

    async def call(self) -> float | None:
        """Seconds to the first byte of the stream; None where it was not complete."""
        while self._idle and self._idle[-1][0].at_eof():
            self._idle.pop()[1].close()  # the gateway keeps no connection that was idle for long
        if not self._idle:
            self._idle.append(await asyncio.open_connection(self._host, self._port))
        reader, writer = self._idle.pop()
        started = time.perf_counter()
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readline()  # the length of the first chunk
        first_s = time.perf_counter() - started
        rest = await reader.readuntil(b"\r\n0\r\n\r\n")
        self._idle.append((reader, writer))
        return first_s if b" 200 " in head and b"data: [DONE]" in rest else None

    def close(self) -> None:
        """Drop the connections."""
        for _, writer in self._idle:
            writer.close()


async def measure(url: str, rate: float, seconds: float) -> Report:
    """Send so many requests a second for so long."""
    caller = Caller(url)
    for _ in range(WARM_UP):
        await caller.call()
    clock = asyncio.get_running_loop().time
    started, calls = clock(), []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(started + number / rate - clock(), 0))
        calls.append(asyncio.create_task(caller.call()))
    found = await asyncio.gather(*calls)
    caller.close()
    times = sorted(1000 * each for each in found if each is not None)
    percentiles = statistics.quantiles(times, n=100)
    return Report(rate, len(times), len(found) - len(times), percentiles[49], percentiles[98], times[-1])


@contextlib.contextmanager
def running_on_one_core() -> Iterator[str]:
    """A gateway's address; worker and broker are on the same core, the caller on another one."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])  # what starts now stays there
    try:
        with running_stack(slots=32) as stack:
            os.sched_setaffinity(0, cores[1:] or cores)
            yield stack.gateway.url
    finally:
        os.sched_setaffinity(0, cores)


def main() -> int:
    """Run it; the exit status is 1 where a figure is worse than it must be."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.first_byte",
        description="Measure the time to the first byte of a stream, without the model's own time.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20, help="how long")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    with running_on_one_core() as url:
        report = asyncio.run(measure(url, options.rate, options.seconds))
    print(json.dumps(dataclasses.asdict(report)) if options.json else report.as_table())
    return int(not report.good)


if __name__ == "__main__":
    sys.exit(main())
