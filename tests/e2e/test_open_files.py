"""Services may have as many files and sockets open as the system allows, whatever limit they were started with."""

import resource
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.deploy.test_catalogs import CATALOGS
from tests.services import Gateway, Service, Worker
from tests.valkey import Valkey

pytestmark = pytest.mark.e2e


@pytest.fixture(params=[Gateway, Worker])
def service(request: pytest.FixtureRequest, valkey: Valkey, tmp_path: Path) -> Iterator[Service]:
    service: Service = request.param(tmp_path / "log", valkey.url, CATALOGS / "oracle.toml")
    yield service
    service.kill()


def test_a_service_may_open_as_many_as_there_may_be(service: Service) -> None:
    # given
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most - 1, most))
    # when
    try:
        service.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
    # then
    assert service.process is not None
    assert psutil.Process(service.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (most, most)
