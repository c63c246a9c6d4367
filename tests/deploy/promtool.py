"""Prometheus' own promtool: whether expressions can be read, and which alerts fire when."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest


def find() -> str:
    """Where it is. Without it a test is skipped, and fails in CI."""
    found = shutil.which("promtool")
    if found is None:
        assert "CI" not in os.environ
        pytest.skip("there is no promtool (Debian's package prometheus)")
    return found


def check(folder: Path, expressions: Sequence[str]) -> None:
    """Fail where one of them is none of PromQL."""
    rules = [{"record": f"number:{number}", "expr": each} for number, each in enumerate(expressions)]
    file = folder / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    _run("check", "rules", str(file))


def check_config(file: Path) -> None:
    """Fail where it, or a file with rules that it names, is none of Prometheus."""
    _run("check", "config", str(file))


def try_alerts(
    rules: Path, folder: Path, series: Mapping[str, str], fires: Mapping[str, Sequence[Mapping[str, str]]]
) -> None:
    """Fail where not exactly these alerts fire.

    series: values every 15 s, as in `0+1x40`, by sample. fires: by time, such as 5m: the alerts' labels.
    """
    expected = [
        {
            "eval_time": time,
            "expr": "sum without (alertstate) (ALERTS{alertstate='firing'})",
            "exp_samples": [{"labels": _sample(each), "value": 1} for each in alerts],
        }
        for time, alerts in fires.items()
    ]
    case = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": expected,
    }
    file = folder / "case.yml"
    file.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "15s", "tests": [case]}))
    _run("test", "rules", str(file))


def _sample(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def _run(*arguments: str) -> None:
    done = subprocess.run([find(), *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
