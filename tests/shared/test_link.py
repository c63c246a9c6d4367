"""Waiting for Redis ends when it should."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import redis
from redis._parsers import BaseParser

from shared import link
from shared.errors import BrokerUnavailable
from shared.link import Link, SyncLink
from tests.valkey import Valkey
from tests.waiting import until_async

pytestmark = pytest.mark.anyio

NOBODY = {"username": None, "password": None}
OPERATIONS: dict[str, Callable[[Link], Awaitable[object]]] = {
    "ping": lambda client: client.ping(),
    "script": lambda client: client.run("workers", ["{p}:workers"]),
    "blocking read": lambda client: client.read_one("w", ["{p}:none"], 60_000),
}


@pytest.fixture
async def client(valkey: Valkey) -> AsyncIterator[Link]:
    client = Link(valkey.url, "{p}:")
    yield client
    await client.close()


@contextlib.contextmanager
def silent(valkey: Valkey) -> Iterator[None]:
    """The server takes connections and answers nothing while the block runs."""
    valkey.send(signal.SIGSTOP)
    try:
        yield
    finally:
        valkey.send(signal.SIGCONT)


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_cancellation_is_never_lost(client: Link, name: str) -> None:
    # whatever the operation is about when it comes
    for moment in range(60):

        async def work() -> None:
            while True:
                await OPERATIONS[name](client)

        task = asyncio.create_task(work())
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=10)  # what has lost it goes on for ever
        assert task.cancelled(), f"lost at moment {moment}"


@pytest.mark.parametrize("name", ["ping", "script"])
async def test_a_silent_redis_is_unavailable(
    client: Link, valkey: Valkey, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "ANSWER_TIMEOUT_S", 0.1)
    with silent(valkey), pytest.raises(BrokerUnavailable):
        await OPERATIONS[name](client)


async def test_a_blocking_read_of_a_silent_redis_is_unavailable(
    client: Link, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    valkey.client.xgroup_create("{p}:some", "workers", 0, mkstream=True)
    assert await client.read_one("w", ["{p}:some"], 50) == []
    monkeypatch.setattr(link, "ANSWER_TIMEOUT_S", 0.1)
    with silent(valkey), pytest.raises(BrokerUnavailable):
        await client.read_one("w", ["{p}:some"], 50)


async def test_more_calls_at_once_than_connections_wait_for_one_another(client: Link, valkey: Valkey) -> None:
    await asyncio.gather(*(client.ping() for _ in range(500)))
    assert valkey.client.info("clients")["connected_clients"] <= link.MAX_CONNECTIONS + 1


async def test_a_primary_without_its_replica_is_unavailable(client: Link, valkey: Valkey) -> None:
    valkey.client.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(BrokerUnavailable):
            await client.run("open_session", ["{p}:session:s", "{p}:sessions"], "s", "m", 9, 9000, 1)
    finally:
        valkey.client.config_set("min-replicas-to-write", 0)


async def test_a_broker_that_cannot_save_is_unavailable(client: Link, valkey: Valkey) -> None:
    # given a folder where the file is to be
    (valkey.folder / "dump.rdb").unlink(missing_ok=True)
    (valkey.folder / "dump.rdb").mkdir()
    valkey.client.config_set("save", "3600 1")
    try:
        valkey.client.bgsave()
        await until_async(lambda: valkey.client.info("persistence")["rdb_last_bgsave_status"] == "err")
        with pytest.raises(BrokerUnavailable):
            await client.run("open_session", ["{p}:session:s", "{p}:sessions"], "s", "m", 9, 9000, 1)
    finally:
        valkey.client.config_set("save", "")
        (valkey.folder / "dump.rdb").rmdir()


async def test_a_broker_that_runs_a_long_script_is_unavailable(client: Link, valkey: Valkey) -> None:
    valkey.client.config_set("busy-reply-threshold", 1)
    with redis.Redis(port=valkey.port) as other, contextlib.closing(SyncLink(valkey.url, "{p}:", 5)) as blocking:
        running = asyncio.create_task(asyncio.to_thread(_run_for_ever, other))
        try:
            await until_async(lambda: _is_busy(valkey))
            with pytest.raises(BrokerUnavailable):
                await client.run("workers", ["{p}:workers"])
            with pytest.raises(BrokerUnavailable):
                await asyncio.to_thread(blocking.run, "workers", ["{p}:workers"])
        finally:
            valkey.client.script_kill()
            await running
            valkey.client.config_set("busy-reply-threshold", 5000)


def _run_for_ever(client: "redis.Redis") -> None:
    with contextlib.suppress(redis.ResponseError):
        client.eval("while true do end", 0)


def _is_busy(valkey: Valkey) -> bool:
    try:
        valkey.client.ping()
    except redis.ResponseError:
        return True
    return False


@pytest.mark.parametrize(
    "words",
    [
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "NOSCRIPT No matching script.",
        "MISCONF Errors writing to the AOF file: No space left on device",
        "BUSY Valkey is busy running a script.",
        "NOREPLICAS Not enough good replicas to write.",
    ],
)
def test_what_a_broker_says_that_can_do_nothing_now(words: str) -> None:
    with pytest.raises(BrokerUnavailable), link.translated():
        raise BaseParser.parse_error(words)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("words", ["ERR unknown command", "NOPERM no permissions", "WRONGTYPE of value", "BUSYGROUP"])
def test_what_a_broker_says_of_a_mistake_is_told_as_it_is(words: str) -> None:
    with pytest.raises(redis.ResponseError), link.translated():
        raise BaseParser.parse_error(words)  # type: ignore[no-untyped-call]


async def test_sentinels_that_are_all_away_are_unavailable() -> None:
    client = Link("redis+sentinel://127.0.0.1:1,127.0.0.1:2/corolla", "{p}:")
    with pytest.raises(BrokerUnavailable):
        await client.ping()
    await client.close()


def test_a_url_of_sentinels() -> None:
    plain = link._watched("redis+sentinel://10.0.0.1:26379,[::1]:7,h:8/corolla")
    assert plain == link._Watched([("10.0.0.1", 26379), ("::1", 7), ("h", 8)], "corolla", {}, NOBODY)
    full = link._watched("rediss+sentinel://me:p%40ss@h:8/corolla/3?ssl_ca_certs=/ca&sentinel_password=x")
    tls = {"ssl": True, "ssl_ca_certs": "/ca"}
    options = {"username": "me", "password": "p@ss", "db": 3, **tls}
    assert full == link._Watched([("h", 8)], "corolla", options, {"username": None, "password": "x", **tls})
    assert link._watched("redis://h:1/0") is None
