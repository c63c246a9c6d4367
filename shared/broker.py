"""Jobs, tokens and sessions in Redis: the only file that knows redis-py.

Every change is one Lua script, safe to send twice, so a command that redis-py repeats after a broken connection does
no harm. Whatever keeps Redis from answering becomes BrokerUnavailable here.
"""

import asyncio
import contextlib
import itertools
import secrets
import struct
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Self

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.retry import Retry as SyncRetry

from shared.errors import BrokerUnavailable, Code, CorollaError
from shared.keys import GROUP, LANES, Keys, Timing
from shared.lua import Script, script
from shared.messages import FinishReason, JobFailed, JobFinished, Token, decode_entry, decode_request, encode
from shared.records import (
    Append,
    Appended,
    Attached,
    Beat,
    Bounds,
    Busy,
    CancelJob,
    Claim,
    CloseSession,
    Gap,
    Position,
    Published,
    Registration,
    SessionInfo,
    SessionSnapshot,
    Submission,
)

CANCELLED = encode(JobFinished(FinishReason.CANCELLED))
LATE = encode(JobFailed(Code.DEADLINE, "The answer was not finished in time, please try again later"))
POISON = encode(JobFailed(Code.POISON, "The request was given up: every worker that tried it failed"))

ANSWER_TIMEOUT_S = 5.0
QUIET_S = 5.0
_UNREACHABLE = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    OSError,
)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _UNREACHABLE as error:
        raise BrokerUnavailable from error


class Broker:
    """The broker's operations, for one process. Every one may raise BrokerUnavailable: it may have happened or not."""

    def __init__(self, url: str, timing: Timing | None = None, keys: Keys | None = None) -> None:
        self.timing = timing or Timing()
        self.keys = keys or Keys()
        self._redis = _connect(url, ANSWER_TIMEOUT_S)
        # Reads that block for long, and subscriptions, have connections of their own, without a limit on silence.
        self._patient = _connect(url, None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._redis.aclose()
        await self._patient.aclose()

    async def ping(self) -> None:
        """Return when the broker has answered."""
        with _translated():
            await self._redis.ping()

    # Jobs, as a gateway sees them

    async def submit(self, job: Submission, bounds: Bounds) -> str:
        """Accept a job: "accepted", or "known" where that id was accepted before; the gateway follows it from here.

        Raises Busy where a bound is reached, and CorollaError(SESSION_NOT_FOUND).
        """
        status, depth = await self._run(
            "submit",
            [self.keys.job(job.id)],
            job.id,
            job.gateway,
            encode(job.request),
            job.request.model,
            job.priority,
            job.tenant,
            job.session or "",
            job.deadline_ms,
            self.timing.orphan_ms,
            self.timing.finished_ms,
            bounds.tenant,
            bounds.total,
        )
        match status:
            case b"tenant busy":
                raise Busy(Code.TENANT_BUSY, depth)
            case b"busy":
                raise Busy(Code.BUSY, depth)
            case b"no session":
                raise CorollaError(Code.SESSION_NOT_FOUND, f"Session '{job.session}' expired or does not exist")
        return str(status, "ascii")

    async def attach(self, job: str, gateway: str, after: int) -> Attached | None:
        """Follow a job from after that seq; None where it is gone. No event falls between the answer and what is
        published from here on."""
        found = await self._run("attach", [self.keys.job(job), self.keys.log(job)], job, gateway, after)
        if found is None:
            return None
        state, last, entries = found
        return Attached(str(state, "ascii"), last, tuple(_entry(raw) for raw in entries))

    async def detach(self, job: str, gateway: str, cancel: bool) -> None:
        """Follow a job no longer; `cancel` ends it where no other gateway follows."""
        keys = [self.keys.job(job), self.keys.subscribers(job)]
        await self._run("detach", keys, job, gateway, int(cancel), CANCELLED, self.timing.finished_ms)

    async def cancel(self, job: str) -> None:
        """End a job: at once where it waits, within one token where it runs."""
        await self._run("cancel", [self.keys.job(job)], job, CANCELLED, self.timing.finished_ms)

    async def positions(self, gateway: str, jobs: Iterable[str]) -> dict[str, Position]:
        """Where these jobs are, and mark them as followed."""
        names = list(jobs)
        rows = await self._run("positions", [self.keys.due], gateway, self.timing.orphan_ms, *names)
        return {
            job: Position(str(state, "ascii"), last, ahead)
            for job, (state, last, ahead) in zip(names, rows, strict=True)
        }

    async def sweep(self) -> None:
        """End the jobs that are late or followed by nobody; gateways and workers do this now and then."""
        keys = [self.keys.due, self.keys.sessions]
        await self._run("sweep", keys, self.timing.finished_ms, self.timing.grace_ms, CANCELLED, LATE)

    async def subscribe(self, gateway: str) -> AsyncIterator[Published | Gap]:
        """Events of all jobs that this gateway follows, for ever; a Gap each time the subscription was made."""
        async for raw in self._listen(self.keys.gateway_channel(gateway)):
            if raw is None:
                yield Gap()
            else:
                head, _, body = raw.partition(b"\n")
                job, last, length = head.split()
                yield Published(str(job, "ascii"), decode_entry(int(last), body[: int(length)], body[int(length) :]))

    # Sessions

    async def open_session(self, session: str, model: str, max_length: int, idle_ms: int, limit: int) -> None:
        """Open a dialogue. Raises CorollaError(TOO_MANY_SESSIONS) where `limit` are open."""
        keys = [self.keys.session(session), self.keys.sessions]
        if not await self._run("open_session", keys, session, model, max_length, idle_ms, limit):
            text = f"Too many opened inference sessions (max {limit}), please come back later"
            raise CorollaError(Code.TOO_MANY_SESSIONS, text)

    async def session(self, session: str) -> SessionInfo | None:
        """An open session, its life renewed; None where it expired or never was."""
        found = await self._run("session", [self.keys.session(session)], session)
        return SessionInfo(session, str(found[0], "utf-8"), found[1]) if found else None

    async def close_session(self, session: str) -> None:
        """Close a dialogue and cancel its jobs; one that is gone is closed already."""
        keys = [self.keys.session(session), self.keys.sessions]
        await self._run("close_session", keys, session, CANCELLED, self.timing.finished_ms)

    # Workers

    async def live_workers(self, models: Iterable[str]) -> dict[str, int]:
        """How many live workers serve each of these models."""
        names = list(models)
        with _translated():
            registered = await self._redis.hgetall(self.keys.workers)
            pipeline = self._redis.pipeline(transaction=False)
            for worker in registered:
                pipeline.exists(self.keys.worker(_text(worker)))
            alive = await pipeline.execute()
        served = [_text(models).split() for models in itertools.compress(registered.values(), alive)]
        return {name: sum(name in models for models in served) for name in names}

    async def claim(self, who: Registration, free: int, block_ms: int) -> list[Claim]:
        """Up to `free` jobs for this worker; waits up to `block_ms` while there is none. A wait may end with a few
        jobs more than `free`, where they came at the same moment on several streams."""
        claims = await self._claim(who, free, [])
        if claims or not block_ms:
            return claims
        streams = [self.keys.worker_jobs(who.worker)]
        streams += [self.keys.ready(model, lane) for model in who.models for lane in LANES]
        command = ["XREADGROUP", "GROUP", GROUP, who.worker, "COUNT", 1, "BLOCK", block_ms, "STREAMS", *streams]
        with _translated():
            try:
                found = await self._patient.execute_command(*command, *[">"] * len(streams))  # type: ignore[no-untyped-call]
            except redis.ResponseError as error:
                if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                    raise
                return []  # The streams were lost with Redis' memory: the next claim makes them again.
        entries = [
            part for stream, rows in found or [] for entry, fields in rows for part in (stream, entry, fields[b"job"])
        ]
        return await self._claim(who, free, entries) if entries else []

    async def _claim(self, who: Registration, free: int, entries: list[bytes]) -> list[Claim]:
        rows = await self._run(
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
            *entries,
        )
        return [_claimed(row) for row in rows]

    async def append(self, appends: Iterable[Append]) -> list[Appended]:
        """Write events to the logs of any number of jobs in one round trip; one answer each, in order."""
        operation = script("append")
        calls = [(self.keys.job(each.job), self._append_arguments(each)) for each in appends]
        answers: list[Any] = [None] * len(calls)
        waiting = list(range(len(calls)))
        with _translated():
            while waiting:
                pipeline = self._redis.pipeline(transaction=False)
                for index in waiting:
                    key, arguments = calls[index]
                    pipeline.evalsha(operation.sha, 1, key, *arguments)
                for index, answer in zip(waiting, await pipeline.execute(raise_on_error=False), strict=True):
                    answers[index] = answer
                waiting = [index for index in waiting if isinstance(answers[index], redis.exceptions.NoScriptError)]
                if waiting:
                    await self._redis.script_load(operation.text)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return [Appended(str(status, "ascii"), last, bool(cancelled)) for status, last, cancelled in answers]

    def _append_arguments(self, each: Append) -> list[Any]:
        tokens = encode(each.tokens) if each.tokens else b""
        ending = encode(each.ending) if each.ending else b""
        fixed = [self.keys.prefix, each.job, each.epoch, each.first, len(each.tokens), tokens, ending]
        commit = [_pack(each.commit.ids), each.commit.held] if each.commit else []
        return [*fixed, self.timing.finished_ms, *commit]

    async def requeue(self, who: Registration, leases: Iterable[tuple[str, str]]) -> None:
        """Give jobs (id, epoch) back, for others to go on with; counts as no attempt."""
        await self._run("requeue", [self.keys.worker(who.worker)], *_flat(leases))

    async def leave(self, worker: str) -> None:
        """This worker is gone: whatever it holds or was sent goes to others."""
        await self._run("evacuate", [self.keys.worker(worker)], worker)

    async def reap(self) -> None:
        """Take lost jobs from dead and silent workers; not when Redis itself has just come back: all are silent then."""
        with _translated():
            uptime_s = (await self._redis.info("server"))["uptime_in_seconds"]
        if uptime_s * 1000 > self.timing.lease_ms:
            await self._run("reap", [self.keys.workers], self.timing.lease_ms)

    async def control(self, worker: str) -> AsyncIterator[CancelJob | CloseSession]:
        """Words to this worker, for ever. One that is lost is made good by the next append, beat or idle time-out."""
        async for raw in self._listen(self.keys.control_channel(worker)):
            if raw is not None:
                word, _, name = str(raw, "ascii").partition(" ")
                yield CancelJob(name) if word == "cancel" else CloseSession(name)

    # Redis

    async def _run(self, name: str, keys: list[str], *arguments: Any) -> Any:
        operation = script(name)
        with _translated():
            try:
                return await self._evalsha(operation, keys, arguments)
            except redis.exceptions.NoScriptError:
                await self._redis.script_load(operation.text)
                return await self._evalsha(operation, keys, arguments)

    async def _evalsha(self, operation: Script, keys: list[str], arguments: Iterable[Any]) -> Any:
        return await self._redis.evalsha(operation.sha, len(keys), *keys, self.keys.prefix, *arguments)

    async def _listen(self, channel: str) -> AsyncIterator[bytes | None]:
        """Messages of a channel, over any number of connections; None each time that it was subscribed to."""
        pause_s = 0.0
        while True:
            try:
                async with self._patient.pubsub() as link:
                    await link.subscribe(channel)
                    async for message in _heard(link):
                        pause_s = 0.0
                        yield message
            except _UNREACHABLE:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2 or 0.05, 1.0)


class Heart:
    """A worker's beat, for a thread of its own: synchronous, over its own connection."""

    def __init__(self, url: str, who: Registration, timing: Timing | None = None, keys: Keys | None = None) -> None:
        self._who = who
        self._timing = timing or Timing()
        self._keys = keys or Keys()
        retry = SyncRetry(NoBackoff(), 1)
        self._redis = redis.Redis.from_url(url, socket_timeout=self._timing.beat_s, protocol=2, retry=retry)

    def beat(self, leases: Iterable[tuple[str, str]], free: int) -> Beat:
        """Renew the worker's life and its leases (job, epoch). Raises BrokerUnavailable."""
        who, operation = self._who, script("beat")
        fixed = [self._keys.prefix, who.worker, " ".join(who.models), who.slots, free, self._timing.lease_ms]
        arguments: list[Any] = [self._keys.worker(who.worker), *fixed, *_flat(leases)]
        with _translated():
            try:
                fenced, cancelled = self._redis.evalsha(operation.sha, 1, *arguments)
            except redis.exceptions.NoScriptError:
                self._redis.script_load(operation.text)
                fenced, cancelled = self._redis.evalsha(operation.sha, 1, *arguments)
        return Beat(frozenset(_names(fenced)), frozenset(_names(cancelled)))

    def close(self) -> None:
        """Drop the connection."""
        self._redis.close()


def _connect(url: str, timeout_s: float | None) -> "redis.asyncio.Redis":
    # One repetition, for a connection that Redis closed while it was idle; waiting longer is the callers' business.
    return redis.asyncio.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=ANSWER_TIMEOUT_S,
        protocol=2,
        retry=Retry(NoBackoff(), 1),
    )


async def _heard(link: "redis.asyncio.client.PubSub") -> AsyncIterator[bytes | None]:
    """Payloads of a subscription until its connection breaks, or has been silent in spite of a ping."""
    asked = False
    while True:
        message = await link.get_message(timeout=QUIET_S)
        if message is None:
            if asked:
                raise redis.ConnectionError("no answer to a ping")
            await link.ping()
        asked = message is None
        if message is not None and message["type"] in ("message", "subscribe"):
            yield message["data"] if message["type"] == "message" else None


def _flat(leases: Iterable[tuple[str, str]]) -> list[str]:
    return [part for lease in leases for part in lease]


def _text(raw: bytes | str) -> str:
    return raw if isinstance(raw, str) else str(raw, "utf-8")


def _names(raw: Iterable[bytes]) -> Iterator[str]:
    return (str(name, "ascii") for name in raw)


def _pack(ids: list[int]) -> bytes:
    return struct.pack(f"<{len(ids)}I", *ids)


def _unpack(chunks: Iterable[bytes]) -> list[int]:
    joined = b"".join(chunks)
    return list(struct.unpack(f"<{len(joined) // 4}I", joined))


def _entry(raw: Any) -> Any:
    entry, fields = raw
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    return decode_entry(int(entry.split(b"-")[0]), values[b"t"], values[b"e"])


def _claimed(row: Any) -> Claim:
    job, epoch, request, remaining_ms, log, session, max_length, held, ids = row
    tokens: tuple[Token, ...] = tuple(token for raw in log for token in _entry(raw).tokens)
    snapshot = SessionSnapshot(str(session, "ascii"), max_length, _unpack(ids), held) if session else None
    return Claim(str(job, "ascii"), str(epoch, "ascii"), decode_request(request), remaining_ms, tokens, snapshot)
