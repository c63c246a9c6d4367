"""Running a job to its end, whatever happens between: every endpoint renders the events that come from here.

The request is kept until the answer is complete, so a job that the broker forgot is submitted again under its id.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import TypeVar

import msgspec
import structlog

from gateway.hub import Feed, Hub, JobGone
from gateway.metrics import Course, Metrics
from gateway.orders import Order, Priority, Queued
from gateway.patience import BRIEF_S, patiently
from gateway.transcript import Transcript
from shared import traces
from shared.broker import Broker
from shared.errors import BrokerUnavailable, Code, CorollaError, Discontinuity
from shared.messages import Ending, FinishReason, JobFailed, JobFinished, LogEntry
from shared.records import Bounds, Submission

# Workers and the broker end a late job; a gateway that hears nothing of it ends it this much later.
DEADLINE_MARGIN_S = 5.0
# A job that still waits is late by the broker's clock as well, this much after it is by the gateway's.
SWEEP_DELAY_S = 0.05
# Who wants to know of progress hears something at least so often, so that silence means a broken connection.
NEWS_S = 20.0
# A job that was accepted once is not refused when it is submitted again.
UNBOUNDED = Bounds(2**31, 2**31)

T = TypeVar("T")

log = structlog.get_logger()


class Run:
    """A job under way, for one reader.

    settled: nothing of it goes on any more. is_new: no job of its id had been accepted before. tokens: how many were
    given to the reader. outcome: for the log. course: for the metrics; None where the job was counted when it was
    submitted.
    """

    def __init__(
        self, order: Order, feed: Feed, hub: Hub, broker: Broker, bounds: Bounds, deadline_s: float, metrics: Metrics
    ) -> None:
        self.order = order
        self.course = Course(metrics, order.request.model) if order.request else None
        self.settled = False
        self.is_new = False
        self.tokens = 0
        self.outcome: str = "left"
        self._feed = feed
        self._hub = hub
        self._broker = broker
        self._bounds = bounds
        self._metrics = metrics
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + deadline_s
        self._transcript = Transcript(order.after)
        self._cancelled = False
        self._cancel_due = False
        self._swept = False
        self._ahead = 0
        # Who comes back is told at once that this worked.
        self._told_at = self._clock() if order.request else -NEWS_S

    async def begin(self) -> None:
        """Submit the job, or go on with it. Raises CorollaError where it is refused."""
        if self.order.request is None:
            self._feed.confirm(known=True)
            return
        try:
            await self._submit(self._bounds)
        except CorollaError as error:
            self.outcome, self.settled = error.code, not isinstance(error, BrokerUnavailable)
            if self.course:
                self.course.fail(error.code)
            raise

    async def events(self) -> AsyncGenerator[LogEntry | Queued, None]:
        """The job's new events in order, the last one with its ending, whatever went wrong."""
        ending: Ending | None = None
        while ending is None:
            try:
                event = await self._next()
                self.settled = isinstance(event, LogEntry) and event.ending is not None
            except CorollaError as error:
                event = LogEntry(self._transcript.last + 1, (), JobFailed(error.code, error.message))
            if isinstance(event, LogEntry):
                self.tokens, ending = self.tokens + len(event.tokens), event.ending
                if self.course:
                    self.course.take(event)
            if ending:
                self.outcome = ending.code if isinstance(ending, JobFailed) else ending.reason
            yield event

    async def cancel(self) -> None:
        """End the answer as it stands; its ending still comes through events()."""
        self._cancelled = self._cancel_due = True
        self._feed.stale()
        with contextlib.suppress(BrokerUnavailable):
            await self._send_cancel()

    async def _next(self) -> LogEntry | Queued:
        while True:
            if self._cancel_due:
                await self._patiently(self._send_cancel)
            try:
                entry = await self._feed.take(self._left_s())
            except JobGone:
                if self._cancelled:
                    return LogEntry(self._transcript.last + 1, (), JobFinished(FinishReason.CANCELLED))
                await self._resubmit()
                continue
            fresh = self._transcript.accept(entry) if entry else None
            if fresh:
                self._told_at = self._clock()
                return fresh
            if self.order.progress and (self._feed.ahead != self._ahead or self._clock() - self._told_at >= NEWS_S):
                self._ahead, self._told_at = self._feed.ahead, self._clock()
                return Queued(self._ahead)
            if self._left_s() + DEADLINE_MARGIN_S <= 0:
                raise CorollaError(Code.DEADLINE, "The answer was not finished in time, please try again later")
            if entry is None:
                await self._wait()

    async def _wait(self) -> None:
        """Return when something happened, or it is time for news or to look at the deadline."""
        left_s = self._left_s() + SWEEP_DELAY_S
        if left_s > 0:
            return await self._feed.wait(min(left_s, NEWS_S))
        if not self._swept:
            self._swept = True
            with contextlib.suppress(BrokerUnavailable):
                await self._broker.sweep()
        return await self._feed.wait(self._left_s() + DEADLINE_MARGIN_S)

    async def _submit(self, bounds: Bounds) -> None:
        order, request = self.order, self.order.request
        assert request is not None

        async def submit() -> str:
            left_ms = max(int(1000 * self._left_s()), 1)
            submission = Submission(
                order.job,
                request,
                self._hub.gateway,
                left_ms,
                tenant=order.caller.tenant,
                user=order.user,
                priority=order.priority,
                session=order.session,
                note=order.note,
                account=order.caller.account,
                turns=order.turns,
                prompts=order.prompts,
            )
            return await self._broker.submit(submission, bounds)

        # Events may come before the answer to the submission does.
        self._feed.restart()
        self.is_new = await self._patiently(submit) == "accepted"
        self._feed.confirm(not self.is_new)
        if order.progress:
            with contextlib.suppress(BrokerUnavailable):
                await self._hub.check([order.job])

    async def _resubmit(self) -> None:
        if self.order.request is None:
            raise Discontinuity
        log.warning("job lost, submitted again", job=self.order.job, tokens=self._transcript.last)
        self._metrics.resubmitted.inc()
        await self._submit(UNBOUNDED)

    async def _send_cancel(self) -> None:
        if self._feed.submitted:
            await self._broker.cancel(self.order.job)
            self._cancel_due = False

    async def _patiently(self, operation: Callable[[], Awaitable[T]]) -> T:
        return await patiently(operation, self._left_s())

    def _left_s(self) -> float:
        return self._deadline - self._clock()


class Jobs:
    """Starts runs, and sees to it that a job whose reader left does not go on for nobody."""

    def __init__(
        self,
        broker: Broker,
        hub: Hub,
        bounds: Bounds,
        deadline_s: float,
        grace_s: float,
        metrics: Metrics,
        priority: Priority = "interactive",
    ) -> None:
        self._broker = broker
        self._hub = hub
        self._bounds = bounds
        self._deadline_s = deadline_s
        self._grace_s = grace_s
        self._metrics = metrics
        self._priority = priority
        self._abandoned = False
        self._endings: set[asyncio.Task[None]] = set()
        self._lingers: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def run(self, order: Order) -> AsyncIterator[Run]:
        """A run of the job, which is submitted. Raises CorollaError where it is refused.

        Who leaves before its end cancels it: at once, or after the grace where the order is resumable.
        """
        fields = {"corolla.job": order.job, "corolla.session": order.session, "corolla.priority": self._priority}
        with traces.span("job", "PRODUCER", fields) as span:
            async with self._run(_traced(order, self._priority, span)) as run:
                try:
                    yield run
                finally:
                    span.note({"corolla.outcome": run.outcome, "corolla.tokens": run.tokens})

    @contextlib.asynccontextmanager
    async def _run(self, order: Order) -> AsyncIterator[Run]:
        started, feed = time.monotonic(), self._hub.open(order.job, order.after)
        run = Run(order, feed, self._hub, self._broker, self._bounds, self._deadline_s, self._metrics)
        try:
            await run.begin()
            yield run
        finally:
            self._hub.close(feed)
            if run.course:
                run.course.leave()
            _log_end(run, time.monotonic() - started)
            if not run.settled:
                self._leave(order)

    def abandon(self) -> None:
        """From now on nobody comes back: whoever leaves a job cancels it at once, also where its order is resumable."""
        self._abandoned = True

    async def close(self) -> None:
        """Finish what is to do for jobs whose readers left; the resumable ones are left to other gateways."""
        for linger in self._lingers:
            linger.cancel()
        await asyncio.gather(*self._lingers, *self._endings, return_exceptions=True)

    def close_session(self, session: str, account: str) -> None:
        """Close a session whose client has gone; its jobs end with it."""
        _keep(self._endings, self._brave(lambda: self._broker.close_session(session, account)))

    def _leave(self, order: Order) -> None:
        if order.resumable and not self._abandoned:
            _keep(self._lingers, self._linger(order.job))
        else:
            _keep(self._endings, self._brave(lambda: self._broker.cancel(order.job)))

    async def _linger(self, job: str) -> None:
        with self._hub.hold(job):
            await asyncio.sleep(self._grace_s)
        if not self._hub.follows(job):
            await self._brave(lambda: self._broker.detach(job, self._hub.gateway))

    async def _brave(self, operation: Callable[[], Awaitable[None]]) -> None:
        # Where even this fails, the job ends because no gateway follows it.
        with contextlib.suppress(BrokerUnavailable):
            await patiently(operation, BRIEF_S)


def _traced(order: Order, priority: Priority, span: traces.Span) -> Order:
    """The order with what this gateway adds to it."""
    request = order.request and msgspec.structs.replace(order.request, trace=span.traceparent)
    return dataclasses.replace(order, priority=priority, request=request)


def _keep(tasks: set[asyncio.Task[None]], work: Coroutine[None, None, None]) -> None:
    """Do it in a task of its own: whoever leaves may be cancelled meanwhile, and this must be done all the same."""
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _log_end(run: Run, seconds: float) -> None:
    order = run.order
    log.info(
        "job",
        job=order.job,
        session=order.session,
        model=order.request and order.request.model,
        tenant=order.caller.tenant,
        prompt_chars=len(order.request.prompt or "") if order.request else None,
        tokens=run.tokens,
        outcome=run.outcome,
        seconds=round(seconds, 3),
    )
