"""Jobs, tokens and sessions in Redis: every change is one Lua script, safe to send twice."""

import asyncio
import contextlib
import secrets
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Self

import msgspec

from shared.errors import BrokerUnavailable, Code, CorollaError, Discontinuity
from shared.keys import LANES, Keys, Timing
from shared.link import Link
from shared.messages import FinishReason, JobFailed, JobFinished, LogEntry, decode_entry, decode_request, encode
from shared.overview import Overview, read_overview
from shared.records import (
    Append,
    Appended,
    Attached,
    Bounds,
    Busy,
    CancelJob,
    Claim,
    CloseSession,
    Gap,
    Missed,
    Position,
    Published,
    Registration,
    SessionInfo,
    SessionSnapshot,
    Submission,
)

CANCELLED = encode(JobFinished(FinishReason.CANCELLED))
# What became of a job that nobody followed.
INTERRUPTED = JobFailed(Code.DISCONTINUITY, Discontinuity().message)
LATE = encode(JobFailed(Code.DEADLINE, "The answer was not finished in time, please try again later"))
UNREADABLE = JobFailed(Code.INTERNAL, "The worker does not understand the request, please try again later")
POISON = encode(JobFailed(Code.POISON, "The request was given up: every worker that tried it failed"))
# More than a log has.
MAX_ENTRIES = 2**31
# Jobs whose workers died of something are tried one at a time; the next one waits in a stream, where it would be read
# over and over again.
TRIAL_PAUSE_S = 0.05


class Broker:
    """The broker's operations, for one process. Every one may raise BrokerUnavailable: it may have happened or not."""

    def __init__(self, url: str, timing: Timing | None = None, keys: Keys | None = None) -> None:
        self.timing = timing or Timing()
        self.keys = keys or Keys()
        self._link = Link(url, self.keys.prefix)
        self._server = ""
        self._found_s = 0  # the server's uptime when it was first seen, 0 where no other one was seen before

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop all connections."""
        await self._link.close()

    async def ping(self) -> None:
        """Return when the broker has answered."""
        await self._link.ping()

    # Jobs, as a gateway sees them

    async def submit(self, job: Submission, bounds: Bounds) -> str:
        """Accept a job: "accepted", or "known" where that id was accepted before; the gateway follows it from here.

        Raises Busy where a bound is reached, CorollaError(SESSION_NOT_FOUND), Discontinuity where the broker has lost a
        part of the session, and CorollaError(INVALID) where the id is that of another account's job.
        """
        status, *waiting = await self._link.run(
            "submit",
            [self.keys.job(job.id)],
            job.id,
            job.gateway,
            encode(job.request),
            job.request.model,
            job.priority,
            job.tenant,
            job.user,
            job.session or "",
            job.deadline_ms,
            self.timing.orphan_ms,
            self.timing.finished_ms,
            bounds.tenant,
            bounds.total,
            job.note,
            job.account,
            bounds.requests_per_min,
            bounds.tokens_per_min,
            job.turns,
            job.prompts,
        )
        match status:
            case b"tenant busy":
                raise Busy(Code.TENANT_BUSY, *waiting)
            case b"busy":
                raise Busy(Code.BUSY, *waiting)
            case b"too fast":
                raise Busy(Code.RATE, *waiting)
            case b"taken":
                raise CorollaError(Code.INVALID, "The job's id is taken")
            case b"no session":
                raise CorollaError(Code.SESSION_NOT_FOUND, f"Session '{job.session}' expired or does not exist")
            case b"forgotten":
                raise Discontinuity
        return str(status, "ascii")

    async def attach(self, job: str, gateway: str, after: int, limit: int = MAX_ENTRIES) -> Attached | None:
        """Follow a job from after that seq; None where it is gone. No event falls between the answer and what is
        published from here on, unless there were more than `limit` entries to tell of. Raises CorollaError(INTERNAL)
        where another version wrote what this one cannot read."""
        keys = [self.keys.job(job), self.keys.log(job)]
        found = await self._link.run("attach", keys, job, gateway, after, limit)
        if found is None:
            return None
        state, last, entries = found
        try:
            read = tuple(_entry(raw) for raw in entries)
        except msgspec.MsgspecError:
            raise CorollaError(
                Code.INTERNAL, "The gateway does not understand the answer, please try again later"
            ) from None
        return Attached(str(state, "ascii"), last, read)

    async def note(self, job: str, account: str = "") -> bytes | None:
        """What the gateway that submitted the job noted about it; None where it is gone, or another account's."""
        found = await self._link.run("note", [self.keys.job(job)], account)
        return None if found is None else bytes(found)

    async def detach(self, job: str, gateway: str) -> None:
        """Follow a job no longer. It ends in grace_ms, unless another gateway follows it by then."""
        keys = [self.keys.job(job), self.keys.subscribers(job)]
        await self._link.run("detach", keys, job, gateway, self.timing.grace_ms)

    async def cancel(self, job: str) -> None:
        """End a job: at once where it waits, within one token where it runs."""
        timing = self.timing
        await self._link.run("cancel", [self.keys.job(job)], job, CANCELLED, timing.finished_ms, timing.grace_ms)

    async def positions(self, gateway: str, jobs: Iterable[str]) -> dict[str, Position]:
        """Where these jobs are, and mark them as followed."""
        names = list(jobs)
        rows = await self._link.run("positions", [self.keys.due], gateway, self.timing.orphan_ms, *names)
        return {
            job: Position(str(state, "ascii"), last, ahead)
            for job, (state, last, ahead) in zip(names, rows, strict=True)
        }

    async def sweep(self) -> None:
        """End the jobs that are late or followed by nobody; gateways and workers do this now and then."""
        keys, endings = [self.keys.due, self.keys.sessions], (CANCELLED, encode(INTERRUPTED), LATE)
        await self._link.run("sweep", keys, self.timing.finished_ms, self.timing.grace_ms, *endings)

    async def subscribe(
        self, gateway: str, wanted: Callable[[str], bool] = lambda _: True
    ) -> AsyncIterator[Published | Missed | Gap]:
        """Events of all jobs that this gateway follows, for ever; a Gap each time the subscription was made.

        wanted: whether there is room for an event of this job; others are not decoded.
        """
        async for raw in self._link.listen(self.keys.gateway_channel(gateway)):
            if raw is None:
                yield Gap()
            else:
                head, _, body = raw.partition(b"\n")
                name, last, length = head.split()
                job = str(name, "ascii")
                yield _published(job, int(last), body, int(length)) if wanted(job) else Missed(job)

    # Sessions

    async def open_session(
        self, session: str, model: str, max_length: int, idle_ms: int, limit: int, account: str = ""
    ) -> None:
        """Open a dialogue. Raises CorollaError(TOO_MANY_SESSIONS) where `limit` are open."""
        keys = [self.keys.session(session), self.keys.sessions]
        if not await self._link.run("open_session", keys, session, model, max_length, idle_ms, limit, account):
            text = f"Too many opened inference sessions (max {limit}), please come back later"
            raise CorollaError(Code.TOO_MANY_SESSIONS, text)

    async def session(self, session: str, account: str = "") -> SessionInfo | None:
        """An open session, its life renewed; None where it expired or never was, or is another account's."""
        found = await self._link.run("session", [self.keys.session(session)], session, account)
        return SessionInfo(session, str(found[0], "utf-8"), *found[1:]) if found else None

    async def close_session(self, session: str, account: str = "") -> None:
        """Close a dialogue and cancel its jobs; one that is gone is closed already, another account's stays open."""
        keys = [self.keys.session(session), self.keys.sessions]
        timing = self.timing
        await self._link.run("close_session", keys, session, CANCELLED, timing.finished_ms, timing.grace_ms, account)

    # What lives

    async def announce(self, gateway: str) -> None:
        """This gateway lives; it counts as gone where it does not say so again for as long as a lease."""
        await self._link.run("announce", [self.keys.gateways], gateway, self.timing.lease_ms)

    async def overview(self, models: Iterable[str]) -> Overview:
        """Live gateways and workers, and what waits; by model for these ones."""
        names = list(models)
        keys = [self.keys.gateways, self.keys.workers]
        return read_overview(names, await self._link.run("overview", keys, *names))

    # Workers

    async def live_workers(self, models: Iterable[str]) -> dict[str, int]:
        """How many live workers serve each of these models."""
        served = [str(each, "utf-8").split() for each in await self._link.run("workers", [self.keys.workers])]
        return {model: sum(model in each for each in served) for model in models}

    async def census(self, models: Iterable[str]) -> tuple[int, int, int, int]:
        """How many there are: unfinished jobs, jobs that no worker has, open sessions, jobs given up. models: all."""
        counts: tuple[int, int, int, int] = tuple(await self._link.run("census", [self.keys.due], *models))
        return counts

    async def claim(self, who: Registration, free: int, block_ms: int) -> list[Claim]:
        """Up to `free` jobs for this worker; waits up to `block_ms` while there is none. A wait may end with a few
        jobs more than `free`, where they came at the same moment on several streams."""
        claims = await self._claim(who, free, [])
        if claims or not block_ms:
            return claims
        streams = [self.keys.worker_jobs(who.worker)]
        streams += [self.keys.ready(model, lane) for model in who.models for lane in LANES]
        found = await self._link.read_one(who.worker, streams, block_ms)
        entries = [part for stream, entry, fields in found for part in (stream, entry, fields[b"job"])]
        claims = await self._claim(who, free, entries) if entries else []
        if entries and not claims:
            await asyncio.sleep(TRIAL_PAUSE_S)
        return claims

    async def _claim(self, who: Registration, free: int, entries: list[bytes]) -> list[Claim]:
        rows = await self._link.run(
            "claim",
            [self.keys.worker(who.worker), self.keys.worker_jobs(who.worker)],
            who.worker,
            " ".join(who.models),
            who.slots,
            free,
            self.timing.lease_ms,
            secrets.token_hex(8),
            self.timing.stall_limit,
            self.timing.finished_ms,
            CANCELLED,
            LATE,
            POISON,
            self.timing.dead_ms,
            *entries,
        )
        claims = []
        for row in rows:
            try:
                claims.append(_claimed(row))
            except msgspec.MsgspecError:
                # Where this is not heard, its lease expires, and the next worker says so.
                with contextlib.suppress(BrokerUnavailable):
                    await self.append([_refusal(row)])
        return claims

    async def append(self, appends: Iterable[Append]) -> list[Appended]:
        """Write events to the logs of any number of jobs in one round trip; one answer each, in order."""
        calls = [([self.keys.job(each.job)], self._append_arguments(each)) for each in appends]
        answers = await self._link.run_many("append", calls)
        return [Appended(str(status, "ascii"), last, bool(cancelled)) for status, last, cancelled in answers]

    def _append_arguments(self, each: Append) -> list[Any]:
        tokens = encode(each.tokens) if each.tokens else b""
        ending = encode(each.ending) if each.ending else b""
        fixed = [each.job, each.epoch, each.first, len(each.tokens), tokens, ending]
        commit = [_pack(each.commit.ids), each.commit.held] if each.commit else []
        return [*fixed, self.timing.finished_ms, *commit]

    async def requeue(self, who: Registration, leases: Iterable[tuple[str, str]]) -> None:
        """Give jobs (id, epoch) back, for others to go on with; counts as no attempt."""
        await self._link.run("requeue", [self.keys.worker(who.worker)], *_flat(leases))

    async def leave(self, worker: str, has_drained: bool = False) -> None:
        """This worker is gone: whatever it holds or was sent goes to others; as no attempt, where it has drained."""
        await self._link.run("evacuate", [self.keys.worker(worker)], worker, "1" if has_drained else "")

    async def is_alive(self, beginning: str) -> bool:
        """Whether a live worker's name begins like this."""
        return bool(await self._link.run("alive", [self.keys.workers], beginning))

    async def reap(self, rest_ms: int = 0) -> None:
        """Take lost jobs from dead and silent workers; not within a lease after Redis came back, could be reached
        again, or gave its place to another server, when all have been silent.

        rest_ms: nor where somebody else did it within this time: it looks at every worker, and each of them asks.
        """
        try:
            server, uptime_s = await self._link.server()
            if server != self._server:
                self._server, self._found_s = server, uptime_s if self._server else 0
            if (uptime_s - self._found_s) * 1000 > self.timing.lease_ms:
                await self._link.run("reap", [self.keys.workers], self.timing.lease_ms, rest_ms)
        except BrokerUnavailable:
            self._server = "away"
            raise

    async def control(self, worker: str) -> AsyncIterator[CancelJob | CloseSession]:
        """Words to this worker, for ever. One that is lost is made good by the next append, beat or idle time-out."""
        async for raw in self._link.listen(self.keys.control_channel(worker)):
            if raw is not None:
                word, _, name = str(raw, "ascii").partition(" ")
                yield CancelJob(name) if word == "cancel" else CloseSession(name)


def _published(job: str, last: int, body: bytes, length: int) -> Published | Missed:
    """An event whose tokens are so many bytes, before its ending."""
    try:
        return Published(job, decode_entry(last, body[:length], body[length:]))
    except msgspec.MsgspecError:
        return Missed(job)


def _flat(leases: Iterable[tuple[str, str]]) -> list[str]:
    return [part for lease in leases for part in lease]


def _pack(ids: list[int]) -> bytes:
    return struct.pack(f"<{len(ids)}I", *ids)


def _unpack(chunks: Iterable[bytes]) -> list[int]:
    joined = b"".join(chunks)
    return list(struct.unpack(f"<{len(joined) // 4}I", joined))


def _entry(raw: Any) -> LogEntry:
    entry, fields = raw
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    return decode_entry(int(entry.split(b"-")[0]), values[b"t"], values[b"e"])


def _claimed(row: Any) -> Claim:
    job, epoch, request, remaining_ms, waited_ms, log, session, max_length, held, ids = row
    tokens = tuple(token for raw in log for token in _entry(raw).tokens)
    snapshot = SessionSnapshot(str(session, "ascii"), max_length, _unpack(ids), held) if session else None
    request = decode_request(request)
    return Claim(str(job, "ascii"), str(epoch, "ascii"), request, remaining_ms, tokens, snapshot, waited_ms)


def _refusal(row: Any) -> Append:
    """The end of a job that another version of this software wrote, in words that this one does not know."""
    job, epoch, _, _, _, log = row[:6]
    last = int(log[-1][0].split(b"-")[0]) if log else 0
    return Append(str(job, "ascii"), str(epoch, "ascii"), last + 1, (), UNREADABLE)
