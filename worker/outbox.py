"""Events on their way to the broker: in order, none lost, those of all jobs together.

Every token of a running job stays here until its end, so that whatever the broker lost is sent again.
"""

import asyncio
from collections.abc import Iterable

import structlog

from shared.broker import Broker
from shared.errors import BrokerUnavailable
from shared.messages import Ending, Token
from shared.records import Append, Appended, Claim, SessionCommit
from worker.metrics import Metrics

MAX_UNSENT = 64  # tokens of one job that may wait for the broker
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0

_log = structlog.get_logger()


class Outbox:
    """The events of one job under one lease.

    cancelled: the broker says that the job is to end. lost: the lease is gone, nothing more can be said.
    """

    def __init__(self, claim: Claim, courier: "Courier") -> None:
        self.job, self.epoch = claim.job, claim.epoch
        self.cancelled = False
        self.lost = False
        self._tokens = list(claim.log)
        self._ending: Ending | None = None
        self._commit: SessionCommit | None = None
        self._last = len(claim.log)  # seq of the last event that the broker has
        self._courier = courier
        self._moved = asyncio.Event()

    def push(self, token: Token) -> None:
        """Add a token. What is added before the caller awaits anything travels together."""
        self._tokens.append(token)
        self._courier.collect(self)

    def finish(self, ending: Ending, commit: SessionCommit | None) -> None:
        """Add the ending, and what the session keeps."""
        self._ending, self._commit = ending, commit
        self._courier.collect(self)

    def lose(self) -> None:
        """The lease is gone."""
        self.lost = True
        self._moved.set()

    async def has_room(self) -> None:
        """Return when few enough events wait for the broker."""
        await self._until_unsent(MAX_UNSENT - 1)

    async def is_empty(self) -> None:
        """Return when the broker has everything, or the lease is gone."""
        await self._until_unsent(0)

    async def _until_unsent(self, count: int) -> None:
        while self._unsent > count and not self.lost:
            self._moved.clear()
            await self._moved.wait()

    @property
    def _unsent(self) -> int:
        return len(self._tokens) + (self._ending is not None) - self._last

    def pending(self) -> Append | None:
        """What the broker does not have yet."""
        if self.lost or not self._unsent:
            return None
        tokens = tuple(self._tokens[self._last :])
        return Append(self.job, self.epoch, self._last + 1, tokens, self._ending, self._commit)

    def answered(self, answer: Appended) -> None:
        """The broker's word on what was pending."""
        self.cancelled = self.cancelled or answer.cancelled
        if answer.status in ("fenced", "gone"):
            _log.warning("lease_lost", job=self.job, epoch=self.epoch, why=answer.status)
            self._courier.metrics.lost_leases.inc()
            self.lose()
            return
        self._last = answer.last  # less than before where the broker lost the end of the log
        self._moved.set()
        if self._unsent:
            self._courier.collect(self)


class Courier:
    """Carries the events of all outboxes, one round trip after the other: while one is under way, the next gathers."""

    def __init__(self, broker: Broker, metrics: Metrics) -> None:
        self.metrics = metrics
        self._broker = broker
        self._waiting: dict[Outbox, None] = {}
        self._called = asyncio.Event()

    def collect(self, outbox: Outbox) -> None:
        """This one has something to send."""
        self._waiting[outbox] = None
        self._called.set()

    async def run(self) -> None:
        """Send, for ever."""
        while True:
            await self._called.wait()
            self._called.clear()
            outboxes, self._waiting = list(self._waiting), {}
            sent = [(outbox, append) for outbox in outboxes if (append := outbox.pending())]
            if not sent:
                continue
            answers = await self._send([append for _, append in sent])
            for (outbox, _), answer in zip(sent, answers, strict=True):
                outbox.answered(answer)

    async def _send(self, appends: Iterable[Append]) -> list[Appended]:
        """Until the broker answers: it takes what it has already as done."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await self._broker.append(appends)
            except BrokerUnavailable:
                _log.warning("broker_unavailable", doing="append", pause_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
