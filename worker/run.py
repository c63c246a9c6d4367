"""One job on its way through the model: steps, their time limits, and new attempts where the swarm failed."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
import structlog

from shared.errors import Code, CorollaError
from shared.messages import Ending, FinishReason, JobFailed, JobFinished, Token
from shared.records import Claim, SessionCommit
from worker.backend import MAX_POSITIONS, Backend, BackendSession, Choice
from worker.choices import Answers, begin
from worker.metrics import Metrics
from worker.models import Served
from worker.outbox import Outbox
from worker.readings import asked_about, pack, read, spell, weigh
from worker.sessions import Cache, Sessions
from worker.watchdog import Watchdog

Lease = tuple[str, str]
T = TypeVar("T")
Take = Callable[[BackendSession, slice], Awaitable[T]]

# Before each further attempt in a row at a token, by what the last one failed of. In this time a server that was
# restarted is back, or another one is known; whoever meets full caches should hear of it sooner.
RETRY_DELAYS_S = {Code.SWARM: (0.0, 1.0, 2.0, 4.0, 8.0), Code.CACHE_FULL: (0.0, 1.0)}
LATE = "The answer was not finished in time, please try again later"

_log = structlog.get_logger()


class LeftToOthersError(Exception):
    """The job is no longer this worker's."""


class Run:
    """One job being decoded.

    stepping_since: when the step under way began, on the monotonic clock; None between steps. ended: its ending was
    decided. outcome: why, for whoever watches.
    """

    def __init__(self, claim: Claim, outbox: Outbox, sessions: Sessions, watchdog: Watchdog, metrics: Metrics) -> None:
        self.claim = claim
        self.outbox = outbox
        self.stepping_since: float | None = None
        self.ended = False
        self.outcome = "left"
        self._sessions = sessions
        self._watchdog = watchdog
        self._model = claim.request.model
        self._started_at = time.monotonic()
        self._deadline = self._started_at + claim.remaining_ms / 1000
        self._failures: Counter[Code] = Counter()  # of the swarm since the last token
        self._metrics = metrics
        self._steps = metrics.steps.labels(self._model)
        self._tokens = metrics.tokens.labels(self._model)

    @property
    def lease(self) -> Lease:
        return self.claim.job, self.claim.epoch

    @property
    def session(self) -> str | None:
        """The id of its session."""
        return self.claim.session.id if self.claim.session else None

    def is_alive(self) -> bool:
        """Whether its lease is worth keeping: it has not been lost, and its step is not overdue. Any thread may ask."""
        began = self.stepping_since
        overdue = began is not None and time.monotonic() - began > self._watchdog.step_timeout_s
        return not self.outbox.lost and not overdue

    @property
    def stopped(self) -> bool:
        """Whether what the step under way gives is unwanted, and any further one."""
        return self.outbox.cancelled or self.outbox.lost

    async def decode(self, served: Served) -> None:
        """Decode it up to its ending, which is the outbox's then.

        Raises LeftToOthersError, and CorollaError where the model cannot do it, or not in time.
        """
        if self.claim.request.echo or self.claim.request.embed:
            await self._read(served)
            return
        # In a thread, because a long prompt takes long.
        answers = await asyncio.to_thread(begin, self.claim, served)
        if not answers.ending and not self.stopped:
            session = self.claim.session
            positions = session.max_length if session else answers.positions
            with self._sessions.borrow(self.session, served.backend, answers.ids, positions) as cache:
                await self._generate(answers, cache)
        if self.outbox.cancelled and not answers.ending:
            answers.cancel()
        if answers.ending:
            self.finish(answers.ending, answers.commit)

    async def _read(self, served: Served) -> None:
        """Answer with the prompt itself; see JobRequest.echo and embed."""
        request = self.claim.request
        ids = await asyncio.to_thread(read, request, served)
        embedding = pack(await self._embed(served, ids)) if request.embed else b""
        tokens = await self._spell(served, ids) if request.echo else []
        for token in tokens[len(self.claim.log) :]:
            await self.outbox.has_room()
            if self.stopped:
                break
            self.outbox.push(token)
        if self.outbox.lost:
            raise LeftToOthersError
        reason = FinishReason.CANCELLED if self.outbox.cancelled else FinishReason.STOP
        self.finish(JobFinished(reason, len(ids), embedding=embedding), None)

    async def _spell(self, served: Served, ids: Sequence[int]) -> list[Token]:
        """The prompt's tokens, and how probable they are where that is asked for; none where it is stopped."""
        request, tokenizer = self.claim.request, served.backend.tokenizer
        spelled = await asyncio.to_thread(list, spell(ids, tokenizer, request.show_special))
        if request.sampling.logprobs is None:
            return spelled
        found = await self._score(served, ids, request.sampling.logprobs)
        return [] if self.stopped else await asyncio.to_thread(list, weigh(spelled, found, tokenizer))

    async def _embed(self, served: Served, ids: Sequence[int]) -> Sequence[float]:
        """The sum of the prompt's states."""

        def take(session: BackendSession, part: slice) -> Awaitable[Sequence[float]]:
            return session.total(ids[part])

        totals = await self._feed(served, len(ids), take)
        return [sum(column) for column in zip(*totals, strict=True)]

    async def _score(self, served: Served, ids: Sequence[int], logprobs: int) -> list[Choice]:
        """What the model says of each of the prompt's tokens but the first."""
        draws = asked_about(ids, logprobs)

        def take(session: BackendSession, part: slice) -> Awaitable[list[Choice]]:
            return session.score(ids[: len(draws)][part], draws[part])

        pieces = await self._feed(served, len(draws), take)
        return [choice for piece in pieces for choice in piece]

    async def _feed(self, served: Served, count: int, take: Take[T]) -> list[T]:
        """What `take` gets of a session for each piece of so many ids, over other servers where some failed; for the
        first of them where it is stopped."""
        while True:
            try:
                return await self._pieces(served, count, take)
            except CorollaError as error:
                delay_s = await self._delay_s(error, served.backend, count, 0)
            await asyncio.sleep(delay_s)

    async def _pieces(self, served: Served, count: int, take: Take[T]) -> list[T]:
        session = served.backend.open(count)
        taken: list[T] = []
        try:
            for start in range(0, count, MAX_POSITIONS):
                if self.stopped:
                    break
                taken.append(await self._timed(take(session, slice(start, start + MAX_POSITIONS))))
        finally:
            await session.close()
        return taken

    def finish(self, ending: Ending, commit: SessionCommit | None) -> None:
        """End the job: this goes to the client."""
        self.ended = True
        if isinstance(ending, JobFinished) and commit and self.session:
            ending = msgspec.structs.replace(ending, kept=True)
        self.outbox.finish(ending, commit)
        self.outcome = ending.code if isinstance(ending, JobFailed) else ending.reason
        self._metrics.ended.labels(self._model, self.outcome).inc()
        seconds = round(time.monotonic() - self._started_at, 3)
        _log.info("job_ended", job=self.claim.job, session=self.session, why=self.outcome, seconds=seconds)

    async def _generate(self, answers: Answers, cache: Cache) -> None:
        """Decode up to the answers' end. Nothing is awaited between the tokens of one step, nor, by the caller, between
        the last ones and the ending, and so they travel together."""
        while not answers.ending and not self.stopped:
            await self.outbox.has_room()
            try:
                chosen = await self._timed(cache.feed(answers.ids, answers.draws, answers.parents))
            except CorollaError as error:
                await self._recover(error, cache)
                continue
            if chosen and not self.stopped:
                self._failures.clear()
                tokens = answers.push(chosen)
                self._tokens.inc(len(tokens))
                for token in tokens:
                    self.outbox.push(token)
        if self.outbox.lost:
            raise LeftToOthersError  # the session goes on elsewhere, so that its cache is of no use here

    async def _timed(self, step: Awaitable[T]) -> T:
        """What a step gives: one piece that is fed, which has the time of a step to itself."""
        timeout_s = self._watchdog.step_timeout_s
        now = time.monotonic()
        self.stepping_since = now
        left_s = self._deadline - now
        try:
            async with asyncio.timeout(min(left_s, timeout_s)):
                given = await step
        except TimeoutError:
            if left_s <= timeout_s:  # not the clock again: a timer may be a millisecond early
                raise CorollaError(Code.DEADLINE, LATE) from None
            if self._watchdog.overslept(now):
                raise CorollaError(Code.SWARM, LATE) from None
            # Without a beat its lease expires, and the broker counts that: a job that does this everywhere is given up.
            _log.error("step_overdue", job=self.claim.job, model=self._model, step_timeout_s=timeout_s)
            self._watchdog.overdue(self._model, now)
            raise LeftToOthersError from None
        finally:
            self.stepping_since = None
        self._watchdog.returned(self._model)
        self._steps.observe(time.monotonic() - now)
        return given

    async def _recover(self, error: CorollaError, cache: Cache) -> None:
        """Start again with nothing fed, over other servers. Raises the error where that is no use."""
        delay_s = await self._delay_s(error, cache.backend, cache.room, cache.length)
        # It holds room on the servers before the one that has none.
        await self._sessions.renew(cache, frees_room=error.code is Code.CACHE_FULL)
        await asyncio.sleep(delay_s)

    async def _delay_s(self, error: CorollaError, backend: Backend, room: int, fed: int) -> float:
        """Until another attempt after a step that failed. Raises the error where it is not the swarm's, where it was
        the last attempt, and where there is no time for another one."""
        delays_s = RETRY_DELAYS_S.get(error.code)
        if delays_s is None:
            raise error
        failures = self._failures[error.code]
        fields = {"code": error.code, "cause": type(error.__cause__ or error).__name__, "fed": fed}
        _log.warning("step_failed", job=self.claim.job, model=self._model, attempt=failures + 1, **fields)
        self._metrics.failures.labels(self._model, error.code).inc()
        if failures >= len(delays_s):
            raise error
        delay_s = delays_s[failures]
        if time.monotonic() + delay_s >= self._deadline:
            raise error
        self._failures[error.code] += 1
        # The first attempt after a server that is full goes to others.
        if error.code is Code.CACHE_FULL and failures and await self._sessions.make_room(backend, room):
            _log.info("room_made", job=self.claim.job, model=self._model)
            return 0.0
        return delay_s
