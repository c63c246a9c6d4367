"""Events of all jobs that this gateway follows: one subscription, one feed for each reader, repair of what was missed.

Events come over pub/sub, which may lose them. So a feed knows the seq that comes next, and reads the job's log instead
whenever something is amiss: an event too far ahead, a subscription that was made anew, a check of positions that finds
the log ahead of the feed, or a reader so slow that live events had to be dropped.
"""

import asyncio
import contextlib
import itertools
from collections import Counter, deque
from collections.abc import Iterable, Iterator

import structlog

from gateway.patience import patiently
from shared.broker import Broker
from shared.errors import BrokerUnavailable, Discontinuity
from shared.messages import LogEntry, Token
from shared.records import Attached, Gap, Missed, Position, Published

# Live events that may wait for one reader, whose connection holds some more: less than 256 KiB together, with what the
# allocator takes for them.
FEED_BYTES = 128 << 10
# What they weigh in memory: an entry, each of its tokens besides the text, and each probability that comes with one.
ENTRY_BYTES = 88
TOKEN_BYTES = 104
LOGPROB_BYTES = 128
# Of a log, read at once: a slow reader gets the rest when it has taken these.
PAGE_ENTRIES = 64
# Logs that are read at a time: after a break all feeds want to, and each takes a connection.
ATTACHING = 16

log = structlog.get_logger()


class JobGone(Exception):
    """The broker does not know the job, or does not any more."""


class Feed:
    """One reader's view of a job's log, in order and without gaps.

    A log that was lost and written again is read again: entries may repeat what was read before, and it is the reader
    who compares. `base` is the seq after which the reader began; what the log says before that nobody can compare.

    seen: the seq of the last event that was taken in. held_bytes: weight of what waits for the reader.
    ahead: the job's place in the queue. submitted: the broker has the job, as far as is known.
    """

    def __init__(self, hub: "Hub", job: str, base: int) -> None:
        self.job = job
        self.ahead = 0
        self.submitted = False
        self.seen = base
        self.held_bytes = 0
        self._hub = hub
        self._base = base
        self._entries: deque[LogEntry] = deque()
        self._stale = False
        self._gone = False
        self._wake = asyncio.Event()

    @property
    def has_room(self) -> bool:
        """Whether its reader keeps up."""
        return self.held_bytes <= FEED_BYTES

    def push(self, entry: LogEntry) -> None:
        """Take in an event, or note that the log must be read."""
        if entry.first > self.seen + 1 or not self.has_room:
            self._stale = True
        else:
            self._entries.append(entry)
            self.held_bytes += _weight(entry)
            self.seen = max(self.seen, entry.last)
        self._wake.set()

    def stale(self) -> None:
        """Something may have been missed."""
        self._stale = True
        self._wake.set()

    def compare(self, position: Position, seen: int) -> None:
        """Where the broker says the job is; `seen` is where the feed was when that was asked."""
        self.ahead = position.ahead
        if position.state == "gone":
            self._gone = True
        elif position.last < seen or position.state == "done":
            self._rewind(position.last, position.state)
            self._stale = True
        elif position.last > self.seen:
            self._stale = True
        self._wake.set()

    def restart(self) -> None:
        """The job is about to be submitted (again), so its log starts anew."""
        self._gone = False
        self.seen = self._base

    def confirm(self, known: bool) -> None:
        """The job was submitted; `known`: it was there before, perhaps with events that were missed."""
        # Whoever looked before may have said meanwhile that it is gone.
        self.submitted, self._gone = True, False
        self._stale = self._stale or known

    async def wait(self, timeout_s: float) -> None:
        """Return when something happened, or after that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        self._wake.clear()

    async def take(self, patience_s: float) -> LogEntry | None:
        """The next entry, from the log where need be; None where there is none at this moment.

        Raises JobGone, Discontinuity, and BrokerUnavailable where the log could not be read in time.
        """
        if not self._entries and self._gone:
            raise JobGone
        if not self._entries and self._stale:
            await self._attach(patience_s)
        if not self._entries:
            return None
        entry = self._entries.popleft()
        self.held_bytes -= _weight(entry)
        return entry

    async def _attach(self, patience_s: float) -> None:
        after, self._stale = self.seen, False
        try:
            attached = await patiently(lambda: self._hub.attach(self.job, after), patience_s)
        except BaseException:
            self._stale = True
            raise
        if attached is None:
            raise JobGone
        if attached.last < self._base:
            raise Discontinuity
        for entry in attached.entries:
            self.push(entry)
        if len(attached.entries) == PAGE_ENTRIES and not attached.entries[-1].ending:
            self._stale = True
            return
        unended = attached.state == "done" and not any(entry.ending for entry in attached.entries)
        if unended and after < attached.last:
            raise Discontinuity
        if unended or attached.last < after:
            self._rewind(attached.last, attached.state)
            self._stale = self._stale or unended

    def _rewind(self, last: int, state: str) -> None:
        """The log ends at `last`, perhaps before what was seen: what follows from there is a repetition to compare.

        Of a job that is done, the last event is its ending, which the reader has yet to see.
        """
        self.seen = min(self.seen, last - (state == "done"))


class Hub:
    """The feeds of one gateway, which is named `gateway` on the broker."""

    def __init__(self, broker: Broker, gateway: str) -> None:
        self.gateway = gateway
        self._broker = broker
        self._feeds: dict[str, list[Feed]] = {}
        self._followers: Counter[str] = Counter()
        self._attaching = asyncio.Semaphore(ATTACHING)

    def open(self, job: str, after: int = 0) -> Feed:
        """A new reader of the job's events after that seq; close() must follow."""
        feed = Feed(self, job, after)
        self._feeds.setdefault(job, []).append(feed)
        return feed

    def close(self, feed: Feed) -> None:
        """The reader has left."""
        feeds = self._feeds[feed.job]
        feeds.remove(feed)
        if not feeds:
            del self._feeds[feed.job]

    @contextlib.contextmanager
    def hold(self, job: str) -> Iterator[None]:
        """Follow the job without reading it."""
        self._followers[job] += 1
        try:
            yield
        finally:
            self._followers[job] -= 1
            if not self._followers[job]:
                del self._followers[job]

    def follows(self, job: str) -> bool:
        """Somebody here reads or holds the job."""
        return job in self._feeds or job in self._followers

    async def attach(self, job: str, after: int) -> Attached | None:
        """Follow the job, and read its log after that seq, as far as one page goes."""
        async with self._attaching:
            return await self._broker.attach(job, self.gateway, after, PAGE_ENTRIES)

    async def run(self) -> None:
        """Listen and check, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._check_often())

    async def check(self, jobs: Iterable[str]) -> None:
        """Ask where these jobs are, in one round trip, and mark the feeds that are behind."""
        asked = {job: [(feed, feed.seen) for feed in self._feeds.get(job, []) if feed.submitted] for job in jobs}
        for job, position in (await self._broker.positions(self.gateway, asked)).items():
            for feed, seen in asked[job]:
                feed.compare(position, seen)

    def _has_room(self, job: str) -> bool:
        return any(feed.has_room for feed in self._feeds.get(job, ()))

    async def _listen(self) -> None:
        async for event in self._broker.subscribe(self.gateway, self._has_room):
            match event:
                case Published(job, entry):
                    for feed in self._feeds.get(job, []):
                        feed.push(entry)
                case Missed(job):
                    for feed in self._feeds.get(job, []):
                        feed.stale()
                case Gap():
                    log.debug("subscribed", gateway=self.gateway, jobs=len(self._feeds))
                    for feed in itertools.chain.from_iterable(self._feeds.values()):
                        feed.stale()

    async def _check_often(self) -> None:
        away = False
        while True:
            try:
                await self._broker.announce(self.gateway)
                jobs = {job for job, feeds in self._feeds.items() if any(feed.submitted for feed in feeds)}
                if jobs or self._followers:
                    await self.check(jobs | self._followers.keys())
                    await self._broker.sweep()
            except BrokerUnavailable:
                if not away:
                    log.warning("broker away", gateway=self.gateway)
                away = True
            else:
                if away:
                    log.info("broker back", gateway=self.gateway)
                away = False
            await asyncio.sleep(self._broker.timing.check_s)


def _weight(entry: LogEntry) -> int:
    return ENTRY_BYTES + sum(map(_weight_of, entry.tokens))


def _weight_of(token: Token) -> int:
    probabilities = 1 + len(token.logprobs.top) if token.logprobs else 0
    return TOKEN_BYTES + len(token.text) + LOGPROB_BYTES * probabilities
