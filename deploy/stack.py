"""`python -m deploy.stack`, which `make up` runs: broker, swarm, workers and gateways on this machine, until Ctrl-C.

A service that dies is started again. State and logs are in var/; what the broker holds is kept from one start to the
next. COROLLA_ settings from the environment reach all services, but for the addresses that the stack itself chooses.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from deploy import marks, ports, services
from deploy.keeper import GaveUp, Keeper, Service
from shared import catalog as catalogs
from shared.catalog import CatalogError
from shared.settings import CATALOG, SettingError, read

STAGE_TIMEOUT_S = 5.0
LOCK_TIMEOUT_S = 2.0
PROGRESS_S = 5.0
SAME_WISH_S = 1.0  # a terminal and make may both pass one Ctrl-C on
_PERIOD_S = 0.1


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the stack itself reads: the variable COROLLA_CATALOG."""

    catalog: str = CATALOG


class StackError(Exception):
    """Why there is no stack, in one line."""


def main() -> int:
    """Run the stack; the exit status."""
    # The demo model's own number format, whatever the machine is good at.
    os.environ.setdefault("COROLLA_DTYPE", "float32")
    try:
        wish = _wish()
        for port in range(wish.port, wish.port + wish.gateways):
            if not ports.is_free(port):
                raise StackError(f"port {port} is in use by {ports.holder(port)}; choose another with PORT=...")
        with _only_one(wish.state) as lock, _guarded(wish.state, lock):
            return asyncio.run(_Stack(wish).run())
    except (StackError, GaveUp, SettingError, CatalogError) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


def _wish() -> services.Wish:
    parser = argparse.ArgumentParser(prog="python -m deploy.stack", description="Run everything on this machine.")
    parser.add_argument("--workers", type=int, default=1, choices=range(1, 33), metavar="N")
    parser.add_argument("--gateways", type=int, default=1, choices=range(1, 33), metavar="N")
    parser.add_argument(
        "--port", type=int, default=8000, choices=range(1, 65000), metavar="PORT", help="of the first gateway"
    )
    parser.add_argument(
        "--state", type=Path, default=Path("var"), help="folder for data and logs; default: %(default)s"
    )
    arguments = parser.parse_args()
    file = Path(read(Settings).catalog).absolute()
    state = arguments.state.absolute()
    return services.Wish(file, catalogs.load(file), state, arguments.workers, arguments.gateways, arguments.port)


@contextlib.contextmanager
def _only_one(state: Path) -> Iterator[int]:
    """Hold the lock of a state folder, as its file descriptor. Raises StackError where another stack has it."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("a") as lock:
        end = time.monotonic() + LOCK_TIMEOUT_S  # what is left of a killed stack is ended first
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    raise StackError(f"a stack with its state in {state} runs already; stop it first") from None
                time.sleep(_PERIOD_S)
        marks.end(marks.mark(state))
        yield lock.fileno()


@contextlib.contextmanager
def _guarded(state: Path, lock: int) -> Iterator[None]:
    """See deploy.guard. The lock is the guard's as well, so that it never ends the processes of the next stack."""
    command = [sys.executable, "-m", "deploy.guard", str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, pass_fds=[lock]):
        yield


class _Stack:
    def __init__(self, wish: services.Wish) -> None:
        self._wish = wish
        self._stages = [[self._keeper(each) for each in stage] for stage in services.stages(wish)]
        self._keepers = [keeper for stage in self._stages for keeper in stage]
        self._stop = asyncio.Event()
        self._stop_asked_at = 0.0

    def _keeper(self, service: Service) -> Keeper:
        return Keeper(service, self._wish.state, _say)

    async def run(self) -> int:
        """Keep all services running until a signal; the exit status. Raises GaveUp."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._hear)
        stop = asyncio.create_task(self._stop.wait())
        keeping = [asyncio.create_task(keeper.keep()) for keeper in self._keepers]
        telling = asyncio.create_task(self._tell())
        ended, _ = await asyncio.wait([stop, *keeping], return_when=asyncio.FIRST_COMPLETED)
        for task in (stop, *keeping, telling):
            task.cancel()
        await self._end()
        for task in ended:
            await task
        return 0

    def _hear(self) -> None:
        """A first signal stops the stack in order, a second one at once."""
        now = time.monotonic()
        if not self._stop.is_set():
            self._stop_asked_at = now
            self._stop.set()
            _say("stopping; once more Ctrl-C does it at once")
        elif now - self._stop_asked_at > SAME_WISH_S:
            for keeper in self._keepers:
                keeper.kill()

    async def _tell(self) -> None:
        """Say what is waited for, then where the whole is found."""
        began_at = told_at = time.monotonic()
        while missing := await self._missing():
            if time.monotonic() - told_at > PROGRESS_S:
                told_at = time.monotonic()
                _say(f"waiting for {', '.join(missing)} ({told_at - began_at:.0f} s)")
            await asyncio.sleep(_PERIOD_S)
        addresses = [f"http://{ports.HOST}:{self._wish.port + number}" for number in range(self._wish.gateways)]
        _say(f"Corolla is ready: {' '.join(addresses)} (Ctrl-C stops it; logs are in {self._wish.state / 'log'})")

    async def _missing(self) -> list[str]:
        missing = [keeper.name for keeper in self._keepers if not keeper.ready.is_set()]
        return missing or (
            [] if await services.is_served(self._wish.port) else ["a worker that is known to the gateway"]
        )

    async def _end(self) -> None:
        began_at = time.monotonic()
        for stage in reversed(self._stages):
            await asyncio.gather(*(keeper.stop(STAGE_TIMEOUT_S) for keeper in stage))
        left = marks.carriers(marks.mark(self._wish.state))
        how = f"{len(left)} processes are left" if left else "no process is left"
        _say(f"stopped, {how} ({time.monotonic() - began_at:.1f} s)")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
