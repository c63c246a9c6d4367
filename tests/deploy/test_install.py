"""`make` where something is missing: one clear line, and no traceback."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.services import ROOT

LOCK = "gateway/web/package-lock.json"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a fresh checkout as the installation needs."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml", "deploy/__init__.py", "deploy/install.py", LOCK):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    return tmp_path


def make(checkout: Path, *arguments: str, **environ: str) -> list[str]:
    """What `make up` says; it must fail. Its own last line is left out."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "MAKE", "MFLAGS"))}
    command = ["make", "up", *arguments]
    done = subprocess.run(
        command, check=False, cwd=checkout, env={**inherited, **environ}, capture_output=True, text=True
    )
    assert done.returncode == 2
    lines = (done.stdout + done.stderr).splitlines()
    assert lines.pop().startswith("make: ***")
    return lines


def test_no_python(checkout: Path) -> None:
    assert make(checkout, "PYTHON=python-that-is-not-here") == [
        "Corolla needs Python 3.11, but there is no 'python-that-is-not-here'; name one with PYTHON=..."
    ]


def test_another_python(checkout: Path) -> None:
    # given
    other = checkout / "python"
    other.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2; [ "$1" != -c ]\n')
    other.chmod(0o755)
    # then
    assert make(checkout, f"PYTHON={other}") == [
        f"Corolla needs Python 3.11, but '{other}' is Python 3.9.2; name one with PYTHON=..."
    ]


def test_a_package_that_cannot_be_had(checkout: Path) -> None:
    # given no place to get packages from
    lines = make(checkout, PIP_NO_INDEX="1", PIP_CONFIG_FILE="/dev/null", PIP_FIND_LINKS=str(checkout))
    # then
    assert lines[0] == "install: making .venv"
    assert lines[-1] == (
        "install: failed: Could not find a version that satisfies the requirement accelerate==0.23.0 "
        "(from versions: none) (all of it: var/log/install.log)"
    )
    assert "No matching distribution found for accelerate" in (checkout / "var/log/install.log").read_text()
    assert not (checkout / ".venv/installed").exists()
