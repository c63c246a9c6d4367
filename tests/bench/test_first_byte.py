"""The benchmark of the first byte runs."""

import dataclasses
import json
import subprocess
import sys

import pytest

from tests.bench.first_byte import Report
from tests.services import ROOT

GOOD = Report(rate=50, answered=9, failed=0, p50=5, p99=20, longest=99)


@pytest.mark.e2e
def test_all_streams_are_complete_and_measured() -> None:
    command = [sys.executable, "-m", "tests.bench.first_byte", "--rate", "20", "--seconds", "1", "--json"]
    ran = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    report = Report(**json.loads(ran.stdout))
    assert (report.answered, report.failed) == (20, 0)
    assert 0 < report.p50 <= report.p99
    assert ran.returncode == int(not report.good)


@pytest.mark.parametrize("worse", [{"p50": 5.1}, {"p99": 20.1}, {"failed": 1}])
def test_what_counts_as_good(worse: dict[str, float]) -> None:
    assert GOOD.good
    assert not dataclasses.replace(GOOD, **worse).good  # type: ignore[arg-type]
    assert "p50 5.00 (at most 5), p99 20.00 (at most 20), longest 99.00" in GOOD.as_table()
