"""The benchmark of the head runs, with a small one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPTIONS = [
    "--vocab",
    "64",
    "--hidden",
    "256",
    "--step-ms",
    "5",
    "--sessions",
    "1,3",
    "--tokens",
    "5",
    "--runs",
    "1",
    "--dtype",
    "float32",
    "--json",
]
FIGURES = {
    "tokens_per_s",
    "plain_tokens_per_s",
    "tokens_per_s_ratio",
    "cpu_ms_per_token",
    "plain_cpu_ms_per_token",
    "cpu_ratio",
}
SPREAD = {f"{name}{end}" for name in FIGURES for end in ("", "_min", "_max")}


@pytest.mark.e2e
def test_both_sides_write_all_their_tokens_and_are_measured() -> None:
    # when
    command = [sys.executable, "-m", "tests.bench.head", *OPTIONS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    # then
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report.keys() == {"cores", "dtype", "versions", "levels"}
    assert report["dtype"] == "float32"
    assert [(level["sessions"], level["tokens"], level["errors"]) for level in report["levels"]] == [
        (1, 5, 0),
        (3, 5, 0),
    ]
    for level in report["levels"]:
        assert level.keys() == SPREAD | {"sessions", "tokens", "errors", "others_percent", "client_percent"}
        assert all(level[name] > 0 for name in SPREAD)
