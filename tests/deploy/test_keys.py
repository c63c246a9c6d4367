"""The command for API keys."""

import os
import re
import subprocess
import sys

from tests.services import ROOT
from tests.valkey import Valkey

PEPPER = "p" * 32


def run(url: str, *arguments: str, pepper: str = PEPPER) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "deploy.keys", *arguments]
    environ = {**os.environ, "COROLLA_REDIS_URL": url, "COROLLA_KEY_PEPPER": pepper}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=30)


def test_create_list_and_revoke(valkey: Valkey) -> None:
    made = run(valkey.url, "create", "ann", "--scope", "generate", "--scope", "metrics")
    assert made.returncode == 0
    assert re.fullmatch(r"[0-9a-f]{16}\.[0-9a-f]{32}\n", made.stdout)
    plain = run(valkey.url, "create", "bob").stdout
    rows = [line.split() for line in run(valkey.url, "list").stdout.splitlines()[1:]]
    assert [(row[0], row[3:]) for row in rows] == [
        (plain[:16], ["generate", "batches", "bob"]),
        (made.stdout[:16], ["generate", "metrics", "ann"]),
    ]
    revoked = run(valkey.url, "revoke", plain[:16], "nobody")
    assert (revoked.returncode, revoked.stdout) == (1, f"{plain[:16]} revoked\nnobody is no key\n")
    assert run(valkey.url, "list").stdout.count("\n") == 2


def test_without_a_pepper_there_is_no_key(valkey: Valkey) -> None:
    refused = run(valkey.url, "create", "ann", pepper="")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "COROLLA_KEY_PEPPER is not set, but must be, to what the gateways have\n"


def test_a_pepper_that_is_too_short_is_not_shown(valkey: Valkey) -> None:
    refused = run(valkey.url, "create", "ann", pepper="hunter2")
    assert refused.returncode == 2
    assert refused.stderr.startswith("COROLLA_KEY_PEPPER is wrong, but must be 32 characters or more")
