"""Connections to Redis: the only file that knows redis-py.

Scripts are safe to send twice, so a command that redis-py repeats after a broken connection does no harm. Whatever
keeps Redis from answering becomes BrokerUnavailable here.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.backoff
import redis.retry
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError

from shared.errors import BrokerUnavailable
from shared.keys import GROUP
from shared.lua import script

ANSWER_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 64  # of one process; commands beyond that wait for one another
QUIET_S = 5.0
_UNREACHABLE = (redis.ConnectionError, redis.TimeoutError, ReadOnlyError, OutOfMemoryError, OSError)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except _UNREACHABLE as error:
        raise BrokerUnavailable from error
    except RuntimeError as error:
        # So uvloop, unlike asyncio's own loop, says that a connection broke just before something was written to it.
        if "the handler is closed" not in str(error):
            raise
        raise BrokerUnavailable from error


class Link:
    """One process' asyncio connections. Everything raises BrokerUnavailable: it may have happened or not."""

    def __init__(self, url: str, prefix: str) -> None:
        self._prefix = prefix
        self._redis = _connect(url)

    async def close(self) -> None:
        """Drop all connections."""
        await self._redis.aclose()

    async def ping(self) -> None:
        """Return when Redis has answered."""
        async with _answering():
            await self._redis.ping()

    async def uptime_s(self) -> int:
        """Seconds since Redis started."""
        async with _answering():
            return int((await self._redis.info("server"))["uptime_in_seconds"])

    async def run(self, name: str, keys: Sequence[str], *arguments: Any) -> Any:
        """What the script of that name returns; it gets the prefix before the arguments."""
        return (await self.run_many(name, [(keys, arguments)]))[0]

    async def run_many(self, name: str, calls: Iterable[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """Run a script for each (keys, arguments) in one round trip, one command a call, not as a transaction."""
        operation, prepared = script(name), list(calls)
        answers: list[Any] = [None] * len(prepared)
        waiting = list(range(len(prepared)))
        async with _answering():
            while waiting:
                pipeline = self._redis.pipeline(transaction=False)
                for index in waiting:
                    keys, arguments = prepared[index]
                    pipeline.evalsha(operation.sha, len(keys), *keys, self._prefix, *arguments)
                for index, answer in zip(waiting, await pipeline.execute(raise_on_error=False), strict=True):
                    answers[index] = answer
                waiting = [index for index in waiting if isinstance(answers[index], NoScriptError)]
                if waiting:
                    await self._redis.script_load(operation.text)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return answers

    async def read_one(self, consumer: str, streams: Sequence[str], block_ms: int) -> list[tuple[bytes, bytes, Any]]:
        """Wait for an entry that no consumer of the group has read: (stream, entry id, fields). Empty after `block_ms`,
        and where the group is missing; several where they came on several streams at once."""
        command = ["XREADGROUP", "GROUP", GROUP, consumer, "COUNT", 1, "BLOCK", block_ms, "STREAMS", *streams]
        async with _answering(block_ms / 1000):
            try:
                found = await self._redis.execute_command(*command, *[">"] * len(streams))  # type: ignore[no-untyped-call]
            except redis.ResponseError as error:
                if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                    raise
                return []
        return [(stream, entry, fields) for stream, rows in found or [] for entry, fields in rows]

    async def listen(self, channel: str) -> AsyncIterator[bytes | None]:
        """Messages of a channel, over any number of connections; None each time that it was subscribed to."""
        pause_s = 0.0
        while True:
            try:
                with translated():
                    async with self._redis.pubsub() as subscription:
                        await subscription.subscribe(channel)
                        async for message in _heard(subscription):
                            pause_s = 0.0
                            yield message
            except BrokerUnavailable:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2 or 0.05, 1.0)


class SyncLink:
    """A blocking connection, for a thread of its own."""

    def __init__(self, url: str, prefix: str, timeout_s: float) -> None:
        self._prefix = prefix
        retry = redis.retry.Retry(redis.backoff.NoBackoff(), 1)
        self._redis = redis.Redis.from_url(url, socket_timeout=timeout_s, protocol=2, retry=retry)

    def run(self, name: str, keys: Sequence[str], *arguments: Any) -> Any:
        """As Link.run."""
        operation = script(name)
        with translated():
            try:
                return self._redis.evalsha(operation.sha, len(keys), *keys, self._prefix, *arguments)
            except NoScriptError:
                self._redis.script_load(operation.text)
                return self._redis.evalsha(operation.sha, len(keys), *keys, self._prefix, *arguments)

    def close(self) -> None:
        """Drop the connection."""
        self._redis.close()


def blocking(url: str) -> "redis.Redis":
    """A blocking client as it is, for RQ, which has commands of its own."""
    return redis.Redis.from_url(url, socket_connect_timeout=ANSWER_TIMEOUT_S, protocol=2)


@contextlib.asynccontextmanager
async def _answering(block_s: float = 0.0) -> AsyncIterator[None]:
    """Redis has so long to answer, beyond the time for which it was asked to wait.

    Not by redis-py's own socket_timeout: on Python 3.11 it loses a cancellation that comes while a command is sent.
    """
    with translated():
        async with asyncio.timeout(block_s + ANSWER_TIMEOUT_S):
            yield


def _connect(url: str) -> "redis.asyncio.Redis":
    # One repetition, for a connection that Redis closed while it was idle; waiting longer is the callers' business.
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=None,
        socket_timeout=None,
        socket_connect_timeout=ANSWER_TIMEOUT_S,
        protocol=2,
        retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 1),
    )
    return redis.asyncio.Redis.from_pool(pool)


async def _heard(subscription: "redis.asyncio.client.PubSub") -> AsyncIterator[bytes | None]:
    """Payloads of a subscription until its connection breaks, or has been silent in spite of a ping."""
    asked = False
    while True:
        message = await subscription.get_message(timeout=QUIET_S)
        if message is None:
            if asked:
                raise redis.ConnectionError("no answer to a ping")
            await subscription.ping()
        asked = message is None
        if message is not None and message["type"] in ("message", "subscribe"):
            yield message["data"] if message["type"] == "message" else None
