"""A client of workers: submits jobs to the broker and takes in what is published of them, as a gateway does."""

import asyncio
import contextlib
import secrets
import sys
from collections.abc import AsyncIterator, Sequence

from shared.broker import Broker
from shared.keys import Timing
from shared.messages import JobFailed, JobRequest, LogEntry
from shared.records import Bounds, Published, Submission
from shared.sampling import SamplingParams
from tests.bench.sides import Ids

NAME = "bench"
DEADLINE_S = 1800
BOUNDS = Bounds(tenant=4096, total=4096)
TIMING = Timing(orphan_ms=DEADLINE_S * 1000)  # so that nobody has to say that the jobs are still followed
GREEDY = SamplingParams(ignore_eos=True)


class _Reader:
    """One job's events. Whatever is missing leaves its answer short."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.ended = asyncio.Event()
        self.failure: JobFailed | None = None

    def take(self, entry: LogEntry) -> None:
        if entry.first == len(self.ids) + 1:
            self.ids += [token.id for token in entry.tokens]
        if entry.ending:
            self.failure = entry.ending if isinstance(entry.ending, JobFailed) else None
            self.ended.set()


class Client:
    """Made by `connected`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._readers: dict[str, _Reader] = {}
        self.subscribed = asyncio.Event()

    async def write(self, model: str, prompts: Sequence[str], tokens: int) -> list[Ids]:
        """`tokens` greedy ids after each prompt, a job for each; fewer where one failed, which is printed.

        Raises TimeoutError where the worker does not come back.
        """
        readers = await asyncio.gather(*(self._submit(model, prompt, tokens) for prompt in prompts))
        async with asyncio.timeout(DEADLINE_S):
            for reader in readers:
                await reader.ended.wait()
        for failure in (reader.failure for reader in readers if reader.failure):
            print(f"a job failed: {failure.message}", file=sys.stderr)
        return [tuple(reader.ids) for reader in readers]

    async def _submit(self, model: str, prompt: str, tokens: int) -> _Reader:
        job = secrets.token_hex(16)
        reader = self._readers[job] = _Reader()
        request = JobRequest(model, GREEDY, prompt, max_new_tokens=tokens)
        await self._broker.submit(Submission(job, request, NAME, DEADLINE_S * 1000), BOUNDS)
        return reader

    async def follow(self) -> None:
        """Take in events, for ever."""
        async for event in self._broker.subscribe(NAME):
            self.subscribed.set()
            if isinstance(event, Published):
                self._readers[event.job].take(event.entry)


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """A client of the broker at `url`; everything that it wants is published to it."""
    async with Broker(url, TIMING) as broker:
        client = Client(broker)
        following = asyncio.create_task(client.follow())
        try:
            await client.subscribed.wait()
            yield client
        finally:
            following.cancel()
