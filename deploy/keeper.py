"""One service, started, watched and started again."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NoReturn

from deploy import marks, ports

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0
MAX_FAILURES = 3
_PERIOD_S = 0.1


@dataclasses.dataclass(frozen=True)
class Service:
    """What runs, and how to see that it is ready.

    command: made anew for each start. environ: beyond our own. needs: local ports that something must listen on before.
    is_ready: gets what the service has logged since it started. place: where it is found, for people.
    clean_up: what is to be done at once when it has ended by itself.
    """

    name: str
    command: Callable[[], Awaitable[list[str]]]
    is_ready: Callable[[bytes], Awaitable[bool]]
    place: str
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)
    needs: tuple[int, ...] = ()
    clean_up: Callable[[], Awaitable[None]] | None = None


class GaveUp(Exception):
    """A service does not start; the text is one line for people."""


class Keeper:
    """Keeps one service running. state: folder of the stack, for the log. say: tells people a line."""

    def __init__(self, service: Service, state: Path, say: Callable[[str], None]) -> None:
        self.name = service.name
        self.ready = asyncio.Event()
        self._service = service
        self._mark = marks.mark(state, service.name)
        self._say = say
        self._log = state / "log" / f"{service.name}.log"
        self._process: asyncio.subprocess.Process | None = None

    async def keep(self) -> NoReturn:
        """Start it, and again whenever it ends. Raises GaveUp where it ends three times before it was ever ready."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_bytes(b"")
        failures: float = 0
        pause_s = FIRST_PAUSE_S
        while True:
            how = await self._run()
            if self.ready.is_set():
                self.ready.clear()
                failures, pause_s = float("-inf"), FIRST_PAUSE_S
            failures += 1
            if failures == MAX_FAILURES:
                raise GaveUp(f"{self.name} does not start, it {how}: {self._last_words()} (more in {self._log})")
            self._say(f"{self.name} {how}; starting it again in {pause_s:g} s")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def stop(self, timeout_s: float) -> None:
        """Ask it to end, wait, and kill whatever is left of it. keep() must have been cancelled."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), timeout_s)
        await asyncio.to_thread(marks.end, self._mark)
        if self._process is not None:
            await self._process.wait()

    async def _run(self) -> str:
        """Run it once; how it ended, in words."""
        while not all([await ports.answers(port) for port in self._service.needs]):
            await asyncio.sleep(_PERIOD_S)
        start, began_at = self._log.stat().st_size, time.monotonic()
        self._process = await self._launch()
        watch = asyncio.create_task(self._announce(start, began_at))
        try:
            status = await self._process.wait()
        finally:
            watch.cancel()
        if self._service.clean_up:
            await self._service.clean_up()
        await asyncio.to_thread(marks.end, self._mark)  # its children, which may hold its ports
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    async def _launch(self) -> asyncio.subprocess.Process:
        command = await self._service.command()
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, **self._service.environ, marks.VARIABLE: self._mark},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for the runner, which stops the services in order
            )

    async def _announce(self, start: int, began_at: float) -> None:
        while not await self._service.is_ready(self._log.read_bytes()[start:]):
            await asyncio.sleep(_PERIOD_S)
        self.ready.set()
        self._say(f"{self.name} ready{self._service.place} ({time.monotonic() - began_at:.1f} s)")

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "without a word"
