"""Events on their way to the broker: in order, none lost, those of all jobs together.

The newest tokens of a running job stay here when the broker has them, so that what it loses is sent again: the end of
its file, or what a replica that takes over had not got yet. A job of which it lost more than that is left to others.
"""

import asyncio
from collections import deque
from collections.abc import Iterable

import structlog

from shared.broker import Broker
from shared.errors import BrokerUnavailable
from shared.messages import Ending, Token, decode_entry, encode
from shared.records import Append, Appended, Claim, SessionCommit
from worker.metrics import Metrics

MAX_UNSENT = 64  # tokens of one job that may wait for the broker
# Of one job's tokens that the broker has; some seconds of any answer, and all of most.
MAX_SENT_BYTES = 768 << 10
WEIGHT_BYTES = 48  # of a token that is kept, besides what it is encoded as
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0

_log = structlog.get_logger()


class _Sent:
    """The newest of some tokens, encoded: as objects they weigh up to ten times as much."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self._tokens: deque[bytes] = deque()
        self._bytes = 0
        for token in tokens:
            self.add(token)

    def add(self, token: Token) -> None:
        """Keep it, and as many before it as there is room for."""
        raw = encode((token,))
        self._tokens.append(raw)
        self._bytes += len(raw) + WEIGHT_BYTES
        while self._bytes > MAX_SENT_BYTES:
            self._bytes -= len(self._tokens.popleft()) + WEIGHT_BYTES

    def take(self, count: int) -> list[Token] | None:
        """The last ones, which are kept no longer; None where there are not so many."""
        if count > len(self._tokens):
            return None
        taken = [self._tokens.pop() for _ in range(count)]
        self._bytes -= sum(len(raw) + WEIGHT_BYTES for raw in taken)
        return [decode_entry(0, raw, b"").tokens[0] for raw in reversed(taken)]


class Outbox:
    """The events of one job under one lease.

    cancelled: the broker says that the job is to end. lost: the lease is gone, nothing more can be said.
    """

    def __init__(self, claim: Claim, courier: "Courier") -> None:
        self.job, self.epoch = claim.job, claim.epoch
        self.cancelled = False
        self.lost = False
        self._sent = _Sent(claim.log)
        self._tokens: deque[Token] = deque()  # that the broker does not have
        self._count = len(claim.log)  # of all tokens
        self._ending: Ending | None = None
        self._commit: SessionCommit | None = None
        self._last = len(claim.log)  # seq of the last event that the broker has
        self._courier = courier
        self._moved = asyncio.Event()

    def push(self, token: Token) -> None:
        """Add a token. What is added before the caller awaits anything travels together."""
        self._tokens.append(token)
        self._count += 1
        self._courier.collect(self)

    def finish(self, ending: Ending, commit: SessionCommit | None) -> None:
        """Add the ending, and what the session keeps."""
        self._ending, self._commit = ending, commit
        self._courier.collect(self)

    def refuse(self, why: str) -> None:
        """The broker gave the lease away."""
        if not self.lost:
            _log.warning("lease_lost", job=self.job, epoch=self.epoch, why=why)
            self._courier.metrics.lost_leases.inc()
            self.lose()

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
        return self._count + (self._ending is not None) - self._last

    def pending(self) -> Append | None:
        """What the broker does not have yet."""
        if self.lost or not self._unsent:
            return None
        return Append(self.job, self.epoch, self._last + 1, tuple(self._tokens), self._ending, self._commit)

    def answered(self, answer: Appended) -> None:
        """The broker's word on what was pending."""
        self.cancelled = self.cancelled or answer.cancelled
        if answer.status in ("fenced", "gone"):
            self.refuse(answer.status)
        elif not self._move(answer.last):
            self.refuse("log lost")
        else:
            self._moved.set()
            if self._unsent:
                self._courier.collect(self)

    def _move(self, last: int) -> bool:
        """The broker has the events up to this seq: less than before where it lost the end of the log. False where it
        lost more than can be sent again."""
        before, self._last = self._count - len(self._tokens), last
        for _ in range(min(last, self._count) - before):
            self._sent.add(self._tokens.popleft())
        lost = self._sent.take(max(before - last, 0))
        self._tokens.extendleft(reversed(lost or ()))
        return lost is not None


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
