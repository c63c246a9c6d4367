"""Our side: a whole worker in its own process, on a broker of its own."""

import contextlib
import dataclasses
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

from tests.bench.client import Client, connected
from tests.bench.sides import Ids
from tests.services import Service
from tests.valkey import Valkey


@dataclasses.dataclass(frozen=True)
class WorkerSide:
    """A Side: the worker with this process id, which serves `model`."""

    pid: int
    model: str
    client: Client

    async def write(self, prompts: Sequence[str], tokens: int) -> list[Ids]:
        """See Side."""
        return await self.client.write(self.model, prompts, tokens)


@contextlib.asynccontextmanager
async def running_worker(make: Callable[[Path, str], Service], model: str) -> AsyncIterator[WorkerSide]:
    """The worker that `make` makes of a folder for its files and the broker's URL; ready."""
    with _running_valkey() as valkey:
        worker = make(valkey.folder, valkey.url)
        try:
            worker.start()
            assert worker.process is not None
            async with connected(valkey.url) as client:
                yield WorkerSide(worker.process.pid, model, client)
            worker.terminate()
        finally:
            worker.kill()


@contextlib.contextmanager
def _running_valkey() -> Iterator[Valkey]:
    with tempfile.TemporaryDirectory() as folder:
        valkey = Valkey(Path(folder))
        valkey.start()
        try:
            yield valkey
        finally:
            valkey.client.close()
            valkey.stop()
