"""What tells an operator whether a worker is there."""

import os
import socket
import subprocess
import sys

import pytest

from shared.heart import Heart
from shared.keys import Timing
from shared.records import Registration
from tests.services import ROOT
from tests.valkey import Valkey, free_port

NO_BROKER = "worker.health: The message broker does not answer, please try again later"


def health(url: str, name: str = "") -> tuple[int, str]:
    """Exit status and words of `python -m worker.health`."""
    environ = os.environ | {"COROLLA_REDIS_URL": url, "COROLLA_WORKER_NAME": name}
    command = [sys.executable, "-m", "worker.health"]
    done = subprocess.run(command, check=False, cwd=ROOT, env=environ, capture_output=True, text=True)
    return done.returncode, done.stderr.strip()


def beat(valkey: Valkey, name: str) -> None:
    heart = Heart(valkey.url, Registration(name, ("corolla/oracle",), 4), Timing(lease_ms=60_000))
    heart.beat([], 4)
    heart.close()


@pytest.mark.parametrize(("name", "setting"), [(f"{socket.gethostname()}-7-ab", ""), ("mine", "mine")])
def test_a_worker_that_beats(valkey: Valkey, name: str, setting: str) -> None:
    # given
    beat(valkey, name)
    # then
    assert health(valkey.url, setting) == (0, "")


def test_workers_of_other_hosts_do_not_count(valkey: Valkey) -> None:
    # given
    beat(valkey, f"other-{socket.gethostname()}-7-ab")
    # then
    assert health(valkey.url) == (1, "")


def test_a_worker_that_is_silent(valkey: Valkey) -> None:
    # given a worker whose own key has expired
    beat(valkey, "mine")
    valkey.client.delete("{p}:worker:mine")
    # then
    assert health(valkey.url, "mine") == (1, "")


def test_no_broker() -> None:
    assert health(f"redis://127.0.0.1:{free_port()}/0") == (1, NO_BROKER)
