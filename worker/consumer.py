"""Takes jobs from the broker while there are slots, hears its words, looks for lost jobs, and leaves in order."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import structlog

from shared.broker import Broker
from shared.errors import BrokerUnavailable
from shared.records import CancelJob, Registration
from worker.engine import Engine
from worker.outbox import FIRST_PAUSE_S, LONGEST_PAUSE_S, Courier
from worker.sessions import Sessions

CLAIM_WAIT_MS = 5_000
JITTER = 0.2
FAREWELL_TIMEOUT_S = 3.0  # for each of the last words to the broker

_log = structlog.get_logger()


class Consumer:
    """Feeds an engine from the broker, as the worker `who`."""

    def __init__(self, broker: Broker, who: Registration, engine: Engine, courier: Courier, sessions: Sessions) -> None:
        self._broker = broker
        self._who = who
        self._engine = engine
        self._courier = courier
        self._sessions = sessions

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set or the engine hangs; then hand over what is unfinished."""
        async with asyncio.TaskGroup() as group:
            courier = group.create_task(self._courier.run())
            duties = [group.create_task(duty) for duty in (self._claim(), self._reap(), self._listen())]
            ends = [group.create_task(event.wait()) for event in (stop, self._engine.hung)]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in (*duties, *ends):
                task.cancel()
            await self._hand_over()
            courier.cancel()

    async def _claim(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            await self._engine.has_room()
            try:
                claims = await self._broker.claim(self._who, self._engine.free, CLAIM_WAIT_MS)
            except BrokerUnavailable:
                _log.warning("broker_unavailable", doing="claim", pause_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            pause_s = FIRST_PAUSE_S
            for claim in claims:
                self._engine.start(claim)

    async def _reap(self) -> None:
        """Now and then, workers not all at the same moment."""
        timing = self._broker.timing
        while True:
            await asyncio.sleep(timing.reap_s * random.uniform(1 - JITTER, 1 + JITTER))
            self._sessions.drop_idle()
            try:
                # So one worker alone is never kept from it by its own last look.
                await self._broker.reap(int(1000 * timing.reap_s * (1 - 1.5 * JITTER)))
                await self._broker.sweep()
            except BrokerUnavailable:
                _log.warning("broker_unavailable", doing="reap")

    async def _listen(self) -> None:
        async for word in self._broker.control(self._who.worker):
            if isinstance(word, CancelJob):
                self._engine.cancel([word.job])
            else:
                self._sessions.drop(word.session)

    async def _hand_over(self) -> None:
        leases = await self._engine.drain(FAREWELL_TIMEOUT_S)
        async with _farewell():
            await self._broker.requeue(self._who, leases)
        _log.info("drained", unfinished=len(leases))

    async def leave(self) -> None:
        """Sign off, and free the attention caches; no beat may come after it."""
        async with _farewell():
            await self._broker.leave(self._who.worker, has_drained=not self._engine.hung.is_set())
        async with _farewell():
            await self._sessions.close()


@contextlib.asynccontextmanager
async def _farewell() -> AsyncIterator[None]:
    """What cannot be told any more is found out by others: leases and caches expire."""
    try:
        async with asyncio.timeout(FAREWELL_TIMEOUT_S):
            yield
    except (BrokerUnavailable, TimeoutError):
        _log.warning("farewell_failed")
