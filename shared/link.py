"""Connections to Redis: the only file that knows redis-py.

Scripts are safe to send twice, so a command that redis-py repeats after a broken connection does no harm. Whatever
keeps Redis from answering becomes BrokerUnavailable here.

A URL names the server, or sentinels that know it: redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/DATABASE.
redis:// and redis+sentinel:// become rediss:// and rediss+sentinel:// for TLS. Options of redis-py may follow, such as
?ssl_ca_certs=FILE; sentinel_username and sentinel_password are for the sentinels alone.
"""

import asyncio
import contextlib
import dataclasses
import re
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.connection
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.backoff
import redis.connection
import redis.retry
import redis.sentinel
from redis.exceptions import ClusterDownError, NoScriptError, OutOfMemoryError, ReadOnlyError, TryAgainError

from shared.errors import BrokerUnavailable
from shared.keys import GROUP
from shared.lua import script

ANSWER_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 64  # of one process; commands beyond that wait for one another
QUIET_S = 5.0
SENTINEL_TIMEOUT_S = 0.5
# What a broker answers with that cannot do anything now, and may in a moment or once an operator has seen to it: it
# loads its file, has no primary or no room, a script was lost in a fail-over ...
_UNREACHABLE = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.InvalidResponse,
    ClusterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
    OSError,
)
# ... cannot write to its disk, runs a long script, or has lost its replicas. redis-py has no classes for these.
_UNREADY = ("MISCONF ", "BUSY ", "NOREPLICAS ")
_SENTINEL_URL = re.compile(r"(rediss?)\+sentinel://(?:([^/]*)@)?([^/@]+)/([^/?]+)(.*)")


@contextlib.contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except _UNREACHABLE as error:
        raise BrokerUnavailable from error
    except redis.ResponseError as error:
        if not str(error).startswith(_UNREADY):
            raise
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

    async def server(self) -> tuple[str, int]:
        """Which run of which server this is, and for how many seconds it has run."""
        async with _answering():
            found = await self._redis.info("server")
            return str(found["run_id"]), int(found["uptime_in_seconds"])

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
        self._redis = _blocking(url, socket_timeout=timeout_s, retry=retry)

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
    return _blocking(url, socket_connect_timeout=ANSWER_TIMEOUT_S)


def _blocking(url: str, **options: Any) -> "redis.Redis":
    watched = _watched(url)
    if watched is None:
        return redis.Redis.from_url(url, protocol=2, **options)
    asked = {**watched.sentinel_options, "socket_timeout": SENTINEL_TIMEOUT_S}
    sentinels = redis.sentinel.Sentinel(watched.sentinels, sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    options |= watched.options
    client: redis.Redis = sentinels.master_for(watched.service, protocol=2, **options)  # type: ignore[no-untyped-call]
    return client


@dataclasses.dataclass(frozen=True)
class _Watched:
    """A server that sentinels know by the name of a service; options of connections to it, and to them."""

    sentinels: Sequence[tuple[str, int]]
    service: str
    options: dict[str, Any]
    sentinel_options: dict[str, Any]


def _watched(url: str) -> _Watched | None:
    """What a URL of sentinels says; None where it is a server's own."""
    match = _SENTINEL_URL.fullmatch(url)
    if match is None:
        return None
    scheme, credentials, addresses, service, rest = match.groups()
    parts = f"{scheme}://{credentials or ''}@{rest}"
    options: dict[str, Any] = redis.connection.parse_url(parts)  # type: ignore[no-untyped-call]
    options.pop("connection_class", None)
    own = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    tls = {name: value for name, value in options.items() if name.startswith("ssl")}
    if scheme == "rediss":
        options["ssl"] = tls["ssl"] = True
    split = [address.rpartition(":") for address in addresses.split(",")]
    return _Watched([(host.strip("[]"), int(port)) for host, _, port in split], service, options, own | tls)


class _Sentinels:
    """Asks sentinels which server is the primary, first the one that answered last."""

    def __init__(self, watched: _Watched) -> None:
        self._clients = deque(
            redis.asyncio.Redis(host=host, port=port, decode_responses=True, protocol=2, **watched.sentinel_options)
            for host, port in watched.sentinels
        )

    async def discover_master(self, service: str) -> tuple[str, int]:
        """The primary's address. Raises redis.ConnectionError."""
        for _ in range(len(self._clients)):
            with contextlib.suppress(redis.RedisError, OSError):
                async with asyncio.timeout(SENTINEL_TIMEOUT_S):
                    found = await self._clients[0].sentinel_get_master_addr_by_name(service)
                if isinstance(found, tuple):
                    return str(found[0]), found[1]
            self._clients.rotate(-1)
        raise redis.ConnectionError("no sentinel knows the primary")

    async def aclose(self) -> None:
        """Drop all connections."""
        for client in self._clients:
            await client.aclose()


class _PrimaryPool(redis.asyncio.sentinel.SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """Connections to whichever server is the primary."""

    async def aclose(self) -> None:
        """Drop all connections."""
        await super().aclose()
        await self.sentinel_manager.aclose()


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
    options: dict[str, Any] = {
        "max_connections": MAX_CONNECTIONS,
        "timeout": None,
        "socket_timeout": None,
        "socket_connect_timeout": ANSWER_TIMEOUT_S,
        "protocol": 2,
        "retry": redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 1),
    }
    watched = _watched(url)
    if watched is None:
        return redis.asyncio.Redis.from_pool(redis.asyncio.BlockingConnectionPool.from_url(url, **options))
    pool = _PrimaryPool(watched.service, _Sentinels(watched), **watched.options, **options)  # type: ignore[no-untyped-call]
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
