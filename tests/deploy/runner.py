"""The stack's runner as a process that tests may signal and kill."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil

from deploy import marks
from tests.services import ROOT
from tests.waiting import until


class Runner:
    """`python -m deploy.stack` with its state in `folder`. catalog: a file of deploy/catalogs; program: what Python is
    told to run, where it is not just that."""

    def __init__(
        self, folder: Path, catalog: str, port: int, *options: str, program: Sequence[str] = ("-m", "deploy.stack")
    ) -> None:
        self.state = folder / "var"
        self.port = port
        self._output = folder / f"output-{port}"
        environ = {key: value for key, value in os.environ.items() if not key.startswith("COROLLA_")}
        command = [sys.executable, *program, "--state", str(self.state), "--port", str(port), *options]
        with self._output.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**environ, "COROLLA_CATALOG": f"deploy/catalogs/{catalog}"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def lines(self) -> list[str]:
        """What it has said."""
        return self._output.read_text().splitlines()

    def wait_for(self, text: str, timeout_s: float = 60, times: int = 1) -> None:
        """Return when so many lines hold `text`; fail when it ends before."""

        def is_said() -> bool:
            said = sum(text in line for line in self.lines()) >= times
            assert said or self.process.poll() is None, self.lines()
            return said

        until(is_said, timeout_s)

    def health(self, number: int = 0) -> httpx.Response:
        """/health/ready of a gateway."""
        return httpx.get(f"http://127.0.0.1:{self.port + number}/health/ready", timeout=30)

    def service(self, name: str) -> psutil.Process:
        """The process that was started as that service."""
        return min(marks.carriers(marks.mark(self.state, name)), key=lambda process: process.create_time())

    def family(self) -> list[psutil.Process]:
        """It, and every process below it."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        """Ask it to stop, wait, and return its exit status."""
        self.process.send_signal(how)
        return self.process.wait(timeout=60)

    def clean_up(self) -> None:
        """For the end of a test: whatever happened, nothing stays."""
        self.process.kill()
        self.process.wait()
        marks.end(marks.mark(self.state))


def is_running(process: psutil.Process) -> bool:
    """Whether it is there, and more than an entry that nobody has asked for."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
