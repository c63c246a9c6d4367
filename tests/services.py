"""Gateways and workers as processes of their own, for tests that kill things."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.valkey import free_port

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 60.0


class Service:
    """`python -m NAME` with COROLLA_ settings, in a process group of its own, its log lines in a file."""

    def __init__(self, name: str, log: Path, **settings: str | int | float) -> None:
        self.name = name
        self.log = log
        self._settings = {f"COROLLA_{key.upper()}": str(value) for key, value in settings.items()}
        self.arguments: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it and return once it has logged that it is ready."""
        environ = {key: value for key, value in os.environ.items() if not key.startswith("COROLLA_")}
        before = len(self.lines())
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.name, *self.arguments],
                cwd=ROOT,
                env={**environ, "HF_HUB_OFFLINE": "1", **self._settings},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        end = time.monotonic() + START_TIMEOUT_S
        while not any(line.get("event") == "ready" for line in self.lines()[before:]):
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{self.name} did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def lines(self) -> list[dict[str, Any]]:
        """The log, one object a line; lines that are not JSON are left out."""
        found = []
        for raw in self.log.read_text().splitlines() if self.log.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(raw))
        return [line for line in found if isinstance(line, dict)]

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None

    @property
    def rss_mb(self) -> float:
        """Resident memory of the service's own process, in MB (10**6 bytes)."""
        assert self.process is not None
        return float(psutil.Process(self.process.pid).memory_info().rss / 1e6)

    def terminate(self) -> int:
        """SIGTERM, as an operator does; returns the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=30)

    def send(self, number: signal.Signals) -> None:
        """Send the service's own process a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9 of the process; what it leaves behind (children) is ended after it."""
        if self.process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            for each in below:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        self.process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Gateway(Service):
    """`python -m gateway` on a free loopback port."""

    def __init__(
        self, log: Path, redis_url: str, catalog: Path, files: str = "var/files", **settings: str | int | float
    ) -> None:
        self.port = free_port()
        self.files = files
        self.url = f"http://127.0.0.1:{self.port}"
        self.ws_url = f"ws://127.0.0.1:{self.port}/api/v2/generate"
        bind = f"127.0.0.1:{self.port}"
        super().__init__("gateway", log, redis_url=redis_url, catalog=str(catalog), bind=bind, files=files, **settings)

    def is_ready(self) -> bool:
        """Whether the broker answers and a live worker serves the default model."""
        try:
            return httpx.get(f"{self.url}/health/ready").status_code == 200
        except httpx.TransportError:  # it may be too busy to answer soon
            return False

    def counted(self, name: str) -> float:
        """The sum of a counter's samples, as GET /metrics tells it."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[ {{]", line))


class Worker(Service):
    """`python -m worker`."""

    def __init__(self, log: Path, redis_url: str, catalog: Path, **settings: str | int | float) -> None:
        super().__init__("worker", log, redis_url=redis_url, catalog=str(catalog), **settings)

    @property
    def registered(self) -> str:
        """The name under which the worker that runs now is known to the broker."""
        return str([line["worker"] for line in self.lines() if line.get("event") == "ready"][-1])


class BatchWorker(Service):
    """`python -m gateway.batch_worker`."""

    def __init__(self, log: Path, redis_url: str, catalog: Path, **settings: str | int | float) -> None:
        super().__init__("gateway.batch_worker", log, redis_url=redis_url, catalog=str(catalog), **settings)
