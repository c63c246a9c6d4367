"""An engine on a real broker, and a client of it that sees what a gateway sees."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Mapping
from typing import Any

from shared.broker import Broker
from shared.keys import Timing
from shared.messages import Ending, JobRequest, Token
from shared.records import Attached, Bounds, Claim, Registration, Submission
from shared.sampling import SamplingParams
from tests.valkey import Valkey
from tests.waiting import until_async
from worker.backend import Backend
from worker.engine import Engine
from worker.metrics import Metrics
from worker.models import Served
from worker.outbox import Courier
from worker.sessions import Sessions

MODEL = "corolla/test"
CAPACITY = 64


class Desk:
    """Submits jobs as a gateway, and hands them to one engine as the worker `who`."""

    def __init__(self, broker: Broker, engine: Engine, sessions: Sessions, who: Registration, metrics: Metrics) -> None:
        self.metrics = metrics
        self.broker = broker
        self.engine = engine
        self.sessions = sessions
        self.who = who
        self._numbers = itertools.count()

    async def submit(self, session: str | None = None, deadline_ms: int = 60_000, **request: Any) -> str:
        """A new job; its id."""
        fields: dict[str, Any] = {"model": MODEL, "sampling": SamplingParams(), "prompt": "hi"} | request
        job = f"job{next(self._numbers)}"
        submission = Submission(job, JobRequest(**fields), "g", deadline_ms, session=session)
        assert await self.broker.submit(submission, Bounds()) == "accepted"
        return job

    async def claim(self) -> Claim:
        """The job that waits."""
        (claim,) = await self.broker.claim(self.who, 1, 0)
        return claim

    async def start(self, session: str | None = None, deadline_ms: int = 60_000, **request: Any) -> str:
        """A new job that the engine runs; its id."""
        job = await self.submit(session, deadline_ms, **request)
        self.engine.start(await self.claim())
        return job

    async def log(self, job: str) -> tuple[list[Token], Ending | None]:
        """Tokens, and the ending where there is one."""
        attached = await self.broker.attach(job, "g", 0)
        assert isinstance(attached, Attached)
        tokens = [token for entry in attached.entries for token in entry.tokens]
        endings = [entry.ending for entry in attached.entries if entry.ending]
        assert attached.last == len(tokens) + len(endings)
        return tokens, endings[0] if endings else None

    async def result(self, job: str) -> tuple[str, Ending]:
        """Text and ending, once the engine is done with it."""
        await self.at_rest()
        tokens, ending = await self.log(job)
        assert ending is not None
        return "".join(token.text for token in tokens), ending

    async def ask(self, session: str | None = None, **request: Any) -> tuple[str, Ending]:
        """Text and ending of a new job."""
        return await self.result(await self.start(session, **request))

    async def at_rest(self) -> None:
        """Return when the engine runs nothing."""
        await until_async(lambda: self.engine.free == self.who.slots, 60)

    async def tokens(self, job: str, count: int) -> None:
        """Return when the log has that many tokens."""
        async with asyncio.timeout(60):
            while len((await self.log(job))[0]) < count:
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def desk(
    valkey: Valkey,
    backend: Backend,
    url: str | None = None,
    slots: int = 2,
    step_timeout_s: float = 10,
    kept: int = 8,
    capacity: int = CAPACITY,
    timing: Timing | None = None,
) -> AsyncIterator[Desk]:
    """A desk whose engine reaches the broker by `url`; ends what still runs."""
    async with Broker(valkey.url, timing) as broker, Broker(url or valkey.url, timing) as engines:
        metrics = Metrics([MODEL])
        courier, sessions = Courier(engines, metrics), Sessions(kept, idle_s=60)
        models: Mapping[str, Served] = {MODEL: Served(backend, capacity)}
        engine = Engine(models, sessions, courier, slots, step_timeout_s, metrics)
        carrying = asyncio.create_task(courier.run())
        try:
            yield Desk(broker, engine, sessions, Registration("w1", (MODEL,), slots), metrics)
        finally:
            await engine.drain(0)
            await sessions.close()
            carrying.cancel()
