"""A gateway, a broker and perhaps a worker of the oracle, for benchmarks of what lies between worker and client."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.cpu import cpu_s
from tests.services import Gateway, Service, Worker
from tests.valkey import Valkey

MODEL = "corolla/oracle"
CATALOG = f"""
[[families]]
name = "Oracle"
[[families.models]]
repository = "{MODEL}"
name = "Oracle"
backend = "oracle"
"""


@dataclasses.dataclass(frozen=True)
class Stack:
    """What runs. Steps of the worker take no time."""

    valkey: Valkey
    gateway: Gateway
    worker: Worker | None

    def cpu_s(self) -> dict[str, float]:
        """Seconds of CPU that each has used."""
        services: dict[str, Service | None] = {"gateway": self.gateway, "worker": self.worker}
        pids = {name: each.process.pid for name, each in services.items() if each and each.process}
        pids["broker"] = self.valkey.client.info("server")["process_id"]
        return {name: cpu_s(pid) for name, pid in pids.items()}


@contextlib.contextmanager
def running_stack(slots: int, **settings: str) -> Iterator[Stack]:
    """All ready. slots: of the worker; there is none where that is 0. settings: the gateway's."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        catalog = folder / "catalog.toml"
        catalog.write_text(CATALOG)
        valkey = Valkey(folder)
        valkey.start()
        stack.callback(valkey.stop)
        stack.callback(valkey.client.close)
        gateway = Gateway(folder / "gateway.log", valkey.url, catalog, **settings)
        worker = Worker(folder / "worker.log", valkey.url, catalog, slots=slots) if slots else None
        for service in (gateway, worker):
            if service:
                stack.callback(service.kill)
                service.start()
        yield Stack(valkey, gateway, worker)
