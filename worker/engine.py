"""Decodes many jobs at a time, one task each: no job waits for another one's step."""

import asyncio
import time
from collections.abc import Iterable, Mapping

import structlog

from shared.errors import Code, CorollaError
from shared.messages import Ending, JobFailed
from shared.records import Claim, SessionCommit
from worker.answer import Answer
from worker.models import Served
from worker.outbox import Courier, Outbox
from worker.prompts import make_plan
from worker.sessions import Cache, Sessions

Lease = tuple[str, str]

LATE = "The answer was not finished in time, please try again later"
BROKEN = JobFailed(Code.INTERNAL, "The worker failed at this request, please try again later")

_log = structlog.get_logger()


class _LeftToOthersError(Exception):
    """The job is no longer this worker's."""


class Row:
    """One job being decoded. stepping_since: when its step began, on the monotonic clock; None between steps."""

    def __init__(self, claim: Claim, outbox: Outbox) -> None:
        self.claim = claim
        self.outbox = outbox
        self.started_at = time.monotonic()
        self.deadline = self.started_at + claim.remaining_ms / 1000
        self.stepping_since: float | None = None
        self.ended = False  # its ending was decided

    @property
    def lease(self) -> Lease:
        return self.claim.job, self.claim.epoch

    def is_alive(self, oldest: float) -> bool:
        """Whether its lease is worth keeping: it has not been lost, and no step of it began before `oldest`."""
        began = self.stepping_since
        return not self.outbox.lost and (began is None or began >= oldest)

    @property
    def stopped(self) -> bool:
        """Whether the token of the step under way is unwanted, and any further one."""
        return self.outbox.cancelled or self.outbox.lost


class Engine:
    """Runs claimed jobs on `models` (by key), each to its ending.

    step_timeout_s: a job whose step takes longer is left to others. Where no other step of the model came back in that
    time either, the model hangs, which it does not get over by itself: then `hung` is set.
    """

    def __init__(
        self, models: Mapping[str, Served], sessions: Sessions, courier: Courier, slots: int, step_timeout_s: float
    ) -> None:
        self._models = models
        self._sessions = sessions
        self._courier = courier
        self._slots = slots
        self._step_timeout_s = step_timeout_s
        self.hung = asyncio.Event()
        self._stepped_at: dict[str, float] = {}  # by model: when the last step came back
        self._rows: dict[asyncio.Task[None], Row] = {}
        self._running: tuple[Row, ...] = ()  # the same rows, never changed in place, for other threads
        self._vacant = asyncio.Event()
        self._vacant.set()

    @property
    def free(self) -> int:
        """Slots that have no job."""
        return max(self._slots - len(self._rows), 0)

    async def has_room(self) -> None:
        """Return when a slot is free."""
        await self._vacant.wait()

    def leases(self) -> list[Lease]:
        """Leases to renew; any thread may ask. That of a job whose step does not come back is left to expire."""
        oldest = time.monotonic() - self._step_timeout_s
        return [row.lease for row in self._running if row.is_alive(oldest)]

    def start(self, claim: Claim) -> None:
        """Run a job. If it runs here already, that was under a lease which is gone."""
        self.lose([row.lease for row in self._rows.values() if row.claim.job == claim.job])
        row = Row(claim, Outbox(claim, self._courier))
        task = asyncio.create_task(self._run(row))
        task.add_done_callback(self._forget)
        self._rows[task] = row
        self._count()
        _log.info("job_started", job=claim.job, epoch=claim.epoch, tokens_before=len(claim.log))

    def cancel(self, jobs: Iterable[str]) -> None:
        """End these jobs, each when its step is done; the step's token is dropped."""
        unwanted = set(jobs)
        for row in self._rows.values():
            if row.claim.job in unwanted:
                row.outbox.cancelled = True

    def lose(self, leases: Iterable[Lease]) -> None:
        """Drop the jobs under these leases: others run them."""
        gone = set(leases)
        for row in self._rows.values():
            if row.lease in gone:
                row.outbox.lose()

    async def drain(self, timeout_s: float) -> list[Lease]:
        """Stop all jobs where they are, with what they made sent; those that have not ended, for others to go on with.

        Steps under way are not waited for: their caches go with this process.
        """
        rows = dict(self._rows)
        for task in rows:
            task.cancel()
        sending = [asyncio.create_task(row.outbox.is_empty()) for row in rows.values()]
        if sending:
            await asyncio.wait(sending, timeout=timeout_s)
        for each in sending:
            each.cancel()
        await asyncio.gather(*rows, *sending, return_exceptions=True)
        return [row.lease for row in rows.values() if not row.ended and not row.outbox.lost]

    def _forget(self, task: asyncio.Task[None]) -> None:
        row = self._rows.pop(task)
        self._count()
        if not task.cancelled() and (error := task.exception()):
            _log.error("row_failed", job=row.claim.job, error=type(error).__name__)

    def _count(self) -> None:
        self._running = tuple(self._rows.values())
        if self.free:
            self._vacant.set()
        else:
            self._vacant.clear()

    async def _run(self, row: Row) -> None:
        try:
            await self._decode(row)
        except _LeftToOthersError:
            row.outbox.lose()
        except CorollaError as error:
            _finish(row, JobFailed(error.code, error.message), None)
        except Exception as error:  # the job boundary: whatever one job stumbles over, the others go on
            _log.error("job_broke", job=row.claim.job, error=type(error).__name__)
            _log.debug("job_broke", job=row.claim.job, exc_info=error)
            _finish(row, BROKEN, None)
        await row.outbox.is_empty()

    async def _decode(self, row: Row) -> None:
        claim, served = row.claim, self._models[row.claim.request.model]
        # In a thread, because a long prompt takes long.
        answer = await asyncio.to_thread(_begin, claim, served)
        if not answer.ending and not row.stopped:
            positions = claim.session.max_length if claim.session else answer.positions
            name = claim.session.id if claim.session else None
            with self._sessions.borrow(name, served.backend, answer.ids, positions) as cache:
                await self._generate(row, answer, cache)
        if row.outbox.cancelled and not answer.ending:
            answer.cancel()
        if answer.ending:
            _finish(row, answer.ending, answer.commit)

    async def _generate(self, row: Row, answer: Answer, cache: Cache) -> None:
        """Decode up to the answer's end. The caller awaits nothing between its last token and its ending, and so both
        travel together."""
        while not answer.ending and not row.stopped:
            await row.outbox.has_room()
            chosen = await self._step(row, answer, cache)
            if not row.stopped:
                row.outbox.push(answer.push(chosen))
        if row.outbox.lost:
            raise _LeftToOthersError  # the session goes on elsewhere, so that its cache is of no use here

    async def _step(self, row: Row, answer: Answer, cache: Cache) -> int:
        now = time.monotonic()
        row.stepping_since = now
        left_s = row.deadline - now
        try:
            async with asyncio.timeout(min(left_s, self._step_timeout_s)):
                chosen = await cache.next(answer.ids, row.claim.request.sampling, len(answer.tokens))
        except TimeoutError:
            if left_s <= self._step_timeout_s:  # not the clock again: a timer may be a millisecond early
                raise CorollaError(Code.DEADLINE, LATE) from None
            self._overdue(row, now)
            raise _LeftToOthersError from None
        finally:
            row.stepping_since = None
        self._stepped_at[row.claim.request.model] = time.monotonic()
        return chosen

    def _overdue(self, row: Row, began: float) -> None:
        """Without a beat its lease expires, and the broker counts that: a job that does this everywhere is given up."""
        model = row.claim.request.model
        _log.error("step_overdue", job=row.claim.job, model=model, step_timeout_s=self._step_timeout_s)
        if self._stepped_at.get(model, 0.0) < began:
            self.hung.set()


def _begin(claim: Claim, served: Served) -> Answer:
    """The answer as far as it got before."""
    capacity = claim.session.max_length if claim.session else served.max_length
    tokenizer = served.backend.tokenizer
    answer = Answer(claim.request, make_plan(claim.request, claim.session, capacity, tokenizer), tokenizer)
    answer.replay(claim.log)
    return answer


def _finish(row: Row, ending: Ending, commit: SessionCommit | None) -> None:
    row.ended = True
    row.outbox.finish(ending, commit)
    why = ending.code if isinstance(ending, JobFailed) else ending.reason
    _log.info("job_ended", job=row.claim.job, why=why, seconds=round(time.monotonic() - row.started_at, 3))
