"""A private Valkey server on loopback, which tests may kill and start again on the same data."""

import itertools
import random
import signal
import subprocess
import time
from pathlib import Path

import redis

from deploy import ports
from deploy.redis import command as broker_command

# A long file takes a while to be read again, on a busy machine.
START_TIMEOUT_S = 60.0
# Below those that the system gives to connections, which could take one before its server does, and below those of the
# local stack's swarm.
_PORTS = range(10_000, 31_000)
# Each once a run, which may go on beside another one.
_given = itertools.count(random.randrange(len(_PORTS)))


def free_port() -> int:
    """A port that nothing listens on, and that no other caller was given."""
    return next(port for number in _given if ports.is_free(port := _PORTS[number % len(_PORTS)]))


class Valkey:
    """One server with an append-only file in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(port=self.port, protocol=2)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run the server, with the data that is in the folder, and return when it answers."""
        command = broker_command(self.port, self.folder)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert time.monotonic() < end, "Valkey does not answer"
            time.sleep(0.01)

    @property
    def runs(self) -> bool:
        """Whether the server's process is there."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End the server in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server with SIGKILL; what it did not write to the file is lost."""
        self._end(signal.SIGKILL)

    def write_through(self) -> None:
        """From now on until its end, the server acknowledges only what is in its file, which else may come up to 2 s
        later, while the disk is busy: see deploy/redis.py."""
        self.client.config_set("appendfsync", "always")

    def send(self, number: signal.Signals) -> None:
        """Send the server's process a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False
