"""The command for jobs that were given up."""

import os
import subprocess
import sys

from tests.services import ROOT
from tests.valkey import Valkey


def run(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.dead", *arguments]
    environ = {**os.environ, "COROLLA_REDIS_URL": url}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=30)


def bury(valkey: Valkey, job: str) -> None:
    """Leave what the broker leaves of a job that was given up."""
    entry = valkey.client.xadd("{p}:dead", {"job": job}, id="1000-*")
    fields = {
        "dead": entry,
        "model": "m",
        "priority": "batch",
        "tenant": "t",
        "user": "",
        "session": "",
        "last": 3,
        "claims": 4,
    }
    fields |= {"state": "done", "request": "a secret"}
    for name, value in fields.items():
        valkey.client.hset(f"{{p}}:job:{job}", name, value)


def test_list_requeue_and_drop(valkey: Valkey) -> None:
    bury(valkey, "j1")
    bury(valkey, "j2")
    listed = run(valkey.url, "list")
    assert listed.returncode == 0
    assert [line.split() for line in listed.stdout.splitlines()[1:]] == [
        [job, "1970-01-01", "00:00:01", "batch", "2", "4", "t", "m"] for job in ("j1", "j2")
    ]
    requeued = run(valkey.url, "requeue", "j1", "nobody")
    assert (requeued.returncode, requeued.stdout) == (
        1,
        "j1 requeued\nnobody is no dead letter, or its session is over\n",
    )
    assert valkey.client.hget("{p}:job:j1", "state") == b"waiting"
    dropped = run(valkey.url, "drop", "j2")
    assert (dropped.returncode, dropped.stdout) == (0, "j2 dropped\n")
    assert run(valkey.url, "list").stdout.count("\n") == 1


def test_a_broker_that_is_away_is_one_line() -> None:
    away = run("redis://127.0.0.1:1/0", "list")
    assert (away.returncode, away.stderr) == (2, "The message broker does not answer, please try again later\n")
