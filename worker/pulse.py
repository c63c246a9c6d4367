"""The worker's beat, from a thread of its own: a busy event loop must not cost it its leases."""

import asyncio
import contextlib
import os
import sys
import threading
import time

import structlog

from shared.errors import BrokerUnavailable
from shared.heart import Heart
from shared.records import Beat
from shared.reports import Report
from worker.engine import Engine
from worker.run import Lease

_log = structlog.get_logger()


class Pulse:
    """Beats for an engine while the `async with` block runs, and never after it.

    beat_s: period. stuck_s: an event loop that does not answer for so long gets no more beats, so that others take
    over, until it answers again; where it does not for as long once more, the process ends, and a supervisor starts it
    anew. Both are counted in periods of this thread: while the whole process is stopped, or its machine sleeps, nothing
    is asked, and a loop that was not asked has not failed to answer. Where the beat itself fails, the engine is told
    that it hangs: a worker without a beat is none.
    """

    def __init__(self, heart: Heart, engine: Engine, beat_s: float, stuck_s: float) -> None:
        self._heart = heart
        self._engine = engine
        self._beat_s = beat_s
        self._stuck_s = stuck_s
        self._loop = asyncio.get_running_loop()
        self._unanswered = 0  # periods in which the loop was asked, since it last answered
        self._counted = (time.monotonic(), engine.tokens_made)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    async def __aenter__(self) -> None:
        self._thread.start()

    async def __aexit__(self, *_: object) -> None:
        self._end.set()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            while not self._end.wait(self._beat_s):
                silent_s = self._unanswered * self._beat_s
                self._unanswered += 1
                self._loop.call_soon_threadsafe(self._answer)
                if silent_s > 2 * self._stuck_s:
                    self._give_up()
                elif silent_s > self._stuck_s:
                    _log.error("event_loop_stuck", stuck_s=self._stuck_s)
                else:
                    self._beat()
        except Exception as error:  # the end of the thread: whatever it was, nobody else would notice
            _log.critical("beat_failed", exc_info=error)
            self._loop.call_soon_threadsafe(self._engine.hung.set)
        self._heart.close()

    def _beat(self) -> None:
        leases = self._engine.leases()
        try:
            beat = self._heart.beat(leases, self._engine.free, self._report())
        except BrokerUnavailable:
            _log.warning("broker_unavailable", doing="beat")
        else:
            self._loop.call_soon_threadsafe(self._hear, leases, beat)

    def _give_up(self) -> None:
        """End the process, as its event loop never will."""
        _log.critical("event_loop_stuck, the process ends", stuck_s=2 * self._stuck_s)
        with contextlib.suppress(BrokerUnavailable):
            self._heart.leave()
        sys.stderr.flush()
        os._exit(1)

    def _report(self) -> Report:
        before_s, before = self._counted
        now_s, now = self._counted = time.monotonic(), self._engine.tokens_made
        return Report(round((now - before) / (now_s - before_s), 2), self._engine.coverage())

    def _answer(self) -> None:
        self._unanswered = 0

    def _hear(self, leases: list[Lease], beat: Beat) -> None:
        self._engine.lose(lease for lease in leases if lease[0] in beat.fenced)
        self._engine.cancel(beat.cancelled)
