import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy import marks
from tests.deploy.runner import is_running
from tests.waiting import until

# A process in a session of its own below the one that was started, as torch's shared memory manager is.
DETACHED = """
import subprocess, sys
subprocess.Popen(["sleep", "600"], start_new_session=True)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _nothing_stays(tmp_path: Path) -> Iterator[None]:
    yield
    marks.end(marks.mark(tmp_path))


def start(state: Path, service: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", DETACHED],
        env={marks.VARIABLE: marks.mark(state, service), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def finish(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    process.wait(timeout=10)


def test_a_killed_services_children_are_found_and_ended(tmp_path: Path) -> None:
    # given a service whose child outlives it
    service = start(tmp_path, "worker-1")
    (child,) = psutil.Process(service.pid).children()
    until(lambda: child.name() == "sleep")
    service.kill()
    finish(service)
    assert is_running(child)
    # then
    assert marks.carriers(marks.mark(tmp_path, "worker-1")) == [child]
    marks.end(marks.mark(tmp_path, "worker-1"))
    assert not is_running(child)


def test_a_mark_is_one_services_and_one_stacks(tmp_path: Path) -> None:
    # given
    one = start(tmp_path, "worker-1")
    ten = start(tmp_path, "worker-10")
    other = start(tmp_path / "other", "worker-1")
    # when
    marks.end(marks.mark(tmp_path, "worker-1"))
    # then
    finish(one)
    assert [is_running(psutil.Process(each.pid)) for each in (ten, other)] == [True, True]
    # when
    marks.end(marks.mark(tmp_path))
    marks.end(marks.mark(tmp_path / "other"))
    # then
    finish(ten)
    finish(other)
