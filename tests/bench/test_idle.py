"""The benchmark of idle sockets runs."""

import dataclasses
import json
import subprocess
import sys

import pytest

from tests.bench.idle import Report
from tests.services import ROOT

GOOD = Report(sockets=9, seconds=1, alive=9, kib=50, commands=1, alone=1, cpu=0)


@pytest.mark.e2e
def test_all_sockets_live_and_are_pinged() -> None:
    command = [sys.executable, "-m", "tests.bench.idle", "--sockets", "20", "--seconds", "1", "--json"]
    ran = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    report = Report(**json.loads(ran.stdout))
    assert (report.sockets, report.alive) == (20, 20)
    assert report.kib > 0


@pytest.mark.parametrize("worse", [{"alive": 8}, {"kib": 50.1}, {"commands": 1.1}])
def test_what_counts_as_good(worse: dict[str, float]) -> None:
    assert GOOD.good
    assert not dataclasses.replace(GOOD, **worse).good  # type: ignore[arg-type]
