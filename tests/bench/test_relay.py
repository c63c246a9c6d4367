"""The benchmark of the relay runs."""

import dataclasses
import json
import subprocess
import sys

import pytest

from tests.bench.relay import Report, seeds
from tests.services import ROOT
from worker.oracle_backend import text

GOOD = Report(
    256, 400, (14_000, 15_000, 16_000), {"gateway": 20}, wrong=0, rate=2000, late=9, p50=1, p99=10, longest=99
)


@pytest.mark.e2e
def test_all_tokens_arrive_and_are_timed() -> None:
    command = [sys.executable, "-m", "tests.bench.relay", "--streams", "8", "--tokens", "20", "--runs", "2", "--json"]
    command += ["--rate", "100", "--seconds", "1"]
    ran = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    report = Report(**json.loads(ran.stdout))
    assert (len(report.rates), report.wrong, set(report.cpu_us)) == (2, 0, {"gateway", "worker", "broker", "client"})
    assert report.late >= 50
    assert 0 < report.p50 <= report.p99 <= report.longest


def test_an_answer_is_ended_by_its_last_token_only() -> None:
    for seed in seeds(50, 400):
        assert text(seed, 0, 400).count(text(seed, 399, 1)) == 1


@pytest.mark.parametrize("worse", [{"p50": 1.1}, {"p99": 10.1}, {"wrong": 1}, {"rates": (15_000, 14_999, 1)}])
def test_what_counts_as_good(worse: dict[str, object]) -> None:
    assert GOOD.good
    assert not dataclasses.replace(GOOD, **worse).good  # type: ignore[arg-type]
