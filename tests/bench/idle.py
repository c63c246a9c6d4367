"""`python -m tests.bench.idle`: what WebSockets cost a gateway that keep quiet, each with a session open."""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence

import uvloop

from tests.bench.stack import Stack, running_stack
from tests.bench.stream import MASK, Stream, connect

KIB_PER_SOCKET = 50.0  # at most
COMMANDS_PER_SOCKET = 0.001  # a second, at most: what is done for all together varies by as much
AT_ONCE = 100  # sockets that are being opened
LIFE_S = "86400"  # of a silent socket, so that none ends of that
PING_S = 20.0
PING, PONG = 0x89, 0x8A  # the first byte of their frames (RFC 6455, 5.2)
SETTLING_S = 2.0
LATE_S = 2.0  # a ping, at most
AT_LAST_S = 10.0  # until all have answered


@dataclasses.dataclass(frozen=True)
class Report:
    """alive: sockets that had a ping within the last period of so many seconds, and then answered one.

    kib: memory of the gateway per socket, KiB (1024 bytes). commands: that the broker ran per second in all meanwhile;
    alone: as many without any socket. cpu: share of a core that the gateway used.
    """

    sockets: int
    seconds: float
    alive: int
    kib: float
    commands: float
    alone: float
    cpu: float
    cores: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    python: str = dataclasses.field(default_factory=platform.python_version)

    @property
    def good(self) -> bool:
        """Whether they cost as little as they must, and the broker nothing."""
        idle = self.commands <= self.alone + COMMANDS_PER_SOCKET * self.sockets
        return idle and self.alive == self.sockets and self.kib <= KIB_PER_SOCKET

    def as_table(self) -> str:
        """For people to read."""
        return "\n".join(
            [
                f"{self.cores} cores, python {self.python}",
                f"{self.sockets} idle WebSockets with a session for {self.seconds:g} s: alive {self.alive}",
                f"KiB each {self.kib:.1f} (at most {KIB_PER_SOCKET:g}), "
                f"broker commands/s {self.commands:.2f} (without sockets {self.alone:.2f}), "
                f"gateway's CPU {100 * self.cpu:.1f} %",
            ]
        )


class Idle(Stream):
    """A socket that opens a session, answers pings, and keeps quiet else. pinged_at: when it had its last ping."""

    def __init__(self) -> None:
        super().__init__(lambda _: None)
        self.opened = asyncio.Event()
        self.answered = asyncio.Event()
        self.pinged_at = 0.0
        self._frames = b""

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol. Once the session is open, all that comes are control frames, which are short."""
        if not self.opened.is_set():
            super().data_received(data)
            if b'"session_id"' in data:
                self.opened.set()
            return
        self._frames += data
        while len(self._frames) >= 2 and len(self._frames) >= 2 + self._frames[1]:
            end = 2 + self._frames[1]
            self._take(self._frames[:end])
            self._frames = self._frames[end:]

    def ping(self) -> None:
        """Ask the gateway for an answer."""
        self.answered.clear()
        self.write(bytes([PING, 0x80]) + MASK)

    def _take(self, frame: bytes) -> None:
        if frame[0] == PING:
            self.pinged_at = time.monotonic()
            self.write(bytes([PONG, 0x80 | frame[1]]) + MASK + frame[2:])
        elif frame[0] == PONG:
            self.answered.set()


async def open_all(url: str, count: int) -> list[Idle]:
    """So many sockets with a session each."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def open_one() -> Idle:
        async with gate:
            socket = await connect(url, Idle)
            await socket.open()
            await socket.opened.wait()
            return socket

    return await asyncio.gather(*(open_one() for _ in range(count)))


async def count_alive(sockets: Sequence[Idle], ping_s: float) -> int:
    """Those that had a ping within this period, and answer one."""
    oldest = time.monotonic() - ping_s - LATE_S
    current = [socket for socket in sockets if socket.pinged_at >= oldest]
    for socket in current:
        socket.ping()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(AT_LAST_S):
            for socket in current:
                await socket.answered.wait()
    return sum(socket.answered.is_set() for socket in current)


async def commands_per_s(stack: Stack, seconds: float) -> float:
    """That the broker runs, but for this one's own."""

    def count() -> int:
        return int(stack.valkey.client.info("stats")["total_commands_processed"])

    before = count()
    await asyncio.sleep(seconds)
    return (count() - before - 1) / seconds


async def measure(sockets: int, seconds: float) -> Report:
    """Open them, and leave them alone for so long."""
    ping_s = min(PING_S, seconds / 3)
    settings = {"session_idle_s": LIFE_S, "ping_s": str(ping_s), "max_sessions": str(sockets)}
    with running_stack(slots=1, **settings) as stack:
        warm = await open_all(stack.gateway.url, min(sockets, AT_ONCE))
        for socket in warm:
            socket.close()
        await asyncio.sleep(SETTLING_S)
        alone = await commands_per_s(stack, min(seconds, PING_S))
        before_mb = stack.gateway.rss_mb
        opened = await open_all(stack.gateway.url, sockets)
        await asyncio.sleep(SETTLING_S)
        kib = (stack.gateway.rss_mb - before_mb) * 1e6 / 1024 / sockets
        cpu_s = stack.cpu_s()["gateway"]
        commands = await commands_per_s(stack, seconds)
        cpu = (stack.cpu_s()["gateway"] - cpu_s) / seconds
        alive = await count_alive(opened, ping_s)
        for socket in opened:
            socket.close()
    return Report(sockets, seconds, alive, kib, commands, alone, cpu)


def main() -> int:
    """Run it; the exit status is 1 where a figure is worse than it must be."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.idle",
        description="Measure what quiet WebSockets cost a gateway.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--sockets", type=int, default=10_000, help="how many")
    parser.add_argument("--seconds", type=float, default=600, help="how long")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    report = uvloop.run(measure(options.sockets, options.seconds))
    print(json.dumps(dataclasses.asdict(report)) if options.json else report.as_table())
    return int(not report.good)


if __name__ == "__main__":
    sys.exit(main())
