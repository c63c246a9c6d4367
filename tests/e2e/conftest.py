"""The whole system with real parts: Valkey, a swarm of two servers with half the demo model each, workers, gateways."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.resting import leftovers
from tests.services import ROOT, Gateway, Worker
from tests.swarm import running_swarm
from tests.valkey import Valkey
from tests.waiting import until

MODEL = ROOT / "deploy" / "demo" / "model"

CATALOG = f"""
[[families]]
name = "Demo"
[[families.models]]
repository = "corolla/demo"
aliases = ["demo"]
name = "Demo"
path = "{MODEL}"
dht_prefix = "demo"
chat = {{ max_session_length = 1024 }}
[[families]]
name = "Another family"
[[families.models]]
repository = "corolla/twin"
name = "Twin"
path = "{MODEL}"
dht_prefix = "demo"
license = "MIT"
chat = {{ max_session_length = 1024 }}
"""

ORACLES = """
[[families]]
name = "Oracle"
[[families.models]]
repository = "corolla/oracle"
name = "Oracle"
backend = "oracle"
step_ms = 20
[[families.models]]
repository = "corolla/alpaca-2"
aliases = ["chinese-llama-alpaca-2"]
name = "As older servers have it"
backend = "oracle"
chat = { template = "alpaca2", wrap_completions = true }
[[families.models]]
repository = "corolla/short"
name = "Short answers"
backend = "oracle"
chat = { max_session_length = 64 }
"""


@dataclasses.dataclass(frozen=True)
class Stack:
    """A broker, and two gateways and two workers over it, which tests may kill."""

    valkey: Valkey
    gateways: tuple[Gateway, Gateway]
    workers: tuple[Worker, Worker]

    def restore(self) -> None:
        """Start what does not run, and wait until the gateways are ready."""
        for service in (*self.workers, *self.gateways):
            if not service.runs:
                service.start()
        for gateway in self.gateways:
            until(gateway.is_ready)

    def owner_of(self, job: str) -> Worker:
        """The worker that runs this job; waits until one does."""
        until(lambda: self.valkey.client.hget(f"{{p}}:job:{job}", "owner"))
        name = self.valkey.client.hget(f"{{p}}:job:{job}", "owner")
        (owner,) = [worker for worker in self.workers if worker.registered.encode() == name]
        return owner

    def leftovers(self) -> set[str]:
        """What a system at rest does not leave in the broker."""
        return leftovers(self.valkey.client, self.workers)


def _stack(folder: Path, catalog: str, **settings: str | int) -> Iterator[Stack]:
    path = folder / "catalog.toml"
    path.write_text(catalog)
    valkey = Valkey(folder)
    valkey.start()
    files = str(folder / "files")
    first, second = (Gateway(folder / f"gateway-{number}.log", valkey.url, path, files=files) for number in (1, 2))
    one, two = (Worker(folder / f"worker-{number}.log", valkey.url, path, **settings) for number in (1, 2))
    stack = Stack(valkey, (first, second), (one, two))
    try:
        yield stack
    finally:
        for service in (first, second, one, two):
            service.kill()
        valkey.stop()


@pytest.fixture(scope="session")
def demo_peers() -> Iterator[str]:
    """The swarm that holds the demo model; multiaddresses to join by."""
    with running_swarm(MODEL, "demo") as swarm:
        yield " ".join(swarm.peers)


@pytest.fixture(scope="session")
def _demo(tmp_path_factory: pytest.TempPathFactory, demo_peers: str) -> Iterator[Stack]:
    yield from _stack(tmp_path_factory.mktemp("demo"), CATALOG, peers=demo_peers, dtype="float32")


@pytest.fixture(scope="session")
def _oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield from _stack(tmp_path_factory.mktemp("oracle"), ORACLES)


@pytest.fixture
def demo(_demo: Stack) -> Iterator[Stack]:
    """The demo model on a real swarm. After each test nothing may be left in the broker but finished jobs."""
    yield from _at_rest(_demo)


@pytest.fixture
def oracle(_oracle: Stack) -> Iterator[Stack]:
    """A model whose every token is known, at 20 ms a token. After each test nothing may be left, as above."""
    yield from _at_rest(_oracle)


def _at_rest(stack: Stack) -> Iterator[Stack]:
    stack.restore()
    yield stack
    stack.restore()
    with contextlib.suppress(AssertionError):
        until(lambda: not stack.leftovers(), timeout_s=15)
    assert stack.leftovers() == set()


@pytest.fixture(scope="session")
def curl() -> str:
    """The path of curl; without it a test is skipped on a developer's machine, and fails in CI."""
    path = shutil.which("curl")
    if path is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)("curl is not installed")
    return path
