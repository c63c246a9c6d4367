"""Fixtures that tests of several packages use."""

from collections.abc import Iterator

import pytest

from tests.valkey import Valkey


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def _valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.client.close()
    server.stop()


@pytest.fixture
def valkey(_valkey: Valkey) -> Valkey:
    """A running, empty server. A test that ends it starts it again."""
    _valkey.client.flushall()
    _valkey.client.script_flush()
    return _valkey
