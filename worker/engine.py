"""Decodes many jobs at a time, one task each: no job waits for another one's step."""

import asyncio
from collections.abc import Iterable, Mapping

import structlog

from shared import traces
from shared.errors import Code, CorollaError, TooLong
from shared.messages import JobFailed
from shared.records import Claim
from shared.reports import Coverage
from worker.metrics import Metrics
from worker.models import Served
from worker.outbox import Courier, Outbox
from worker.run import Lease, LeftToOthersError, Run
from worker.sessions import Sessions
from worker.watchdog import Watchdog

BROKEN = JobFailed(Code.INTERNAL, "The worker failed at this request, please try again later")

_log = structlog.get_logger()


class Engine:
    """Runs claimed jobs on `models` (by key), each to its ending.

    step_timeout_s: a job whose step takes longer is left to others. Where no other step of the model came back in that
    time either, the model hangs, which it does not get over by itself: then `hung` is set.
    """

    def __init__(
        self,
        models: Mapping[str, Served],
        sessions: Sessions,
        courier: Courier,
        slots: int,
        step_timeout_s: float,
        metrics: Metrics,
    ) -> None:
        self._models = models
        self._sessions = sessions
        self._courier = courier
        self._slots = slots
        self._metrics = metrics
        metrics.slots.set(slots)
        self._watchdog = Watchdog(step_timeout_s)
        self._runs: dict[asyncio.Task[None], Run] = {}
        self._running: tuple[Run, ...] = ()  # the same runs, never changed in place, for other threads
        self._vacant = asyncio.Event()
        self._vacant.set()

    @property
    def hung(self) -> asyncio.Event:
        """Set where a model does not come back any more, or what it needs has ended."""
        return self._watchdog.hung

    @property
    def free(self) -> int:
        """Slots that have no job."""
        return max(self._slots - len(self._runs), 0)

    async def has_room(self) -> None:
        """Return when a slot is free."""
        await self._vacant.wait()

    def leases(self) -> list[Lease]:
        """Leases to renew; any thread may ask. That of a job whose step does not come back is left to expire."""
        return [run.lease for run in self._running if run.is_alive()]

    def coverage(self) -> dict[str, Coverage]:
        """How many servers hold each block, by model; any thread may ask."""
        known = {key: served.backend.coverage() for key, served in self._models.items()}
        return {key: each for key, each in known.items() if each}

    @property
    def tokens_made(self) -> float:
        """Tokens since it was made; any thread may ask."""
        return self._metrics.tokens_made

    def start(self, claim: Claim) -> None:
        """Run a job. If it runs here already, that was under a lease which is gone."""
        self.lose([run.lease for run in self._runs.values() if run.claim.job == claim.job])
        run = Run(claim, Outbox(claim, self._courier), self._sessions, self._watchdog, self._metrics)
        task = asyncio.create_task(self._run(run))
        task.add_done_callback(self._forget)
        self._runs[task] = run
        if claim.waited_ms is not None:
            self._metrics.queue.labels(claim.request.model).observe(claim.waited_ms / 1000)
        self._count()

    def cancel(self, jobs: Iterable[str]) -> None:
        """End these jobs, each when its step is done; the step's token is dropped."""
        unwanted = set(jobs)
        for run in self._runs.values():
            if run.claim.job in unwanted:
                run.outbox.cancelled = True

    def lose(self, leases: Iterable[Lease]) -> None:
        """Drop the jobs under these leases: others run them."""
        gone = set(leases)
        for run in self._runs.values():
            if run.lease in gone:
                run.outbox.refuse("fenced")

    async def drain(self, timeout_s: float) -> list[Lease]:
        """Stop all jobs where they are, with what they made sent; those that have not ended, for others to go on with.

        Steps under way are not waited for: their caches go with this process.
        """
        runs = dict(self._runs)
        for task in runs:
            task.cancel()
        sending = [asyncio.create_task(run.outbox.is_empty()) for run in runs.values()]
        if sending:
            await asyncio.wait(sending, timeout=timeout_s)
        for each in sending:
            each.cancel()
        await asyncio.gather(*runs, *sending, return_exceptions=True)
        return [run.lease for run in runs.values() if not run.ended and not run.outbox.lost]

    def _forget(self, task: asyncio.Task[None]) -> None:
        run = self._runs.pop(task)
        self._count()
        if not task.cancelled() and (error := task.exception()):
            _log.error("run_failed", job=run.claim.job, error=type(error).__name__)

    def _count(self) -> None:
        self._running = tuple(self._runs.values())
        self._metrics.jobs.set(len(self._running))
        if self.free:
            self._vacant.set()
        else:
            self._vacant.clear()

    async def _run(self, run: Run) -> None:
        claim = run.claim
        fields = {"corolla.job": claim.job, "corolla.session": run.session, "corolla.tokens_before": len(claim.log)}
        with (
            traces.span("decode", "CONSUMER", fields, claim.request.trace) as span,
            structlog.contextvars.bound_contextvars(**span.ids),
        ):
            begun = {"session": run.session, "epoch": claim.epoch, "tokens_before": len(claim.log)}
            _log.info("job_started", job=claim.job, **begun)
            try:
                await self._decode(run)
            finally:
                span.note({"corolla.model": claim.request.model, "corolla.outcome": run.outcome})
        await run.outbox.is_empty()

    async def _decode(self, run: Run) -> None:
        try:
            await run.decode(self._models[run.claim.request.model])
        except LeftToOthersError:
            run.outbox.lose()
        except TooLong as error:
            run.finish(JobFailed(error.code, error.message, error.lengths), None)
        except CorollaError as error:
            run.finish(JobFailed(error.code, error.message), None)
        except Exception as error:  # the job boundary: whatever one job stumbles over, the others go on
            _log.error("job_broke", job=run.claim.job, error=type(error).__name__)
            _log.debug("job_broke", job=run.claim.job, exc_info=error)
            run.finish(BROKEN, None)
