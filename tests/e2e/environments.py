"""Other people's packages, each set in an environment of its own: the worker's pins do not fit theirs."""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.services import ROOT

PINS = Path(__file__).parent / "clients"
INSTALL_TIMEOUT_S = 240


def interpreter(name: str) -> Path:
    """Python with what PINS/name.txt lists, made once. Without a package index a test is skipped; in CI it fails."""
    file = PINS / f"{name}.txt"
    folder = ROOT / "var" / "clients" / f"{name}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, clear=True)
        if reason := _install(python, file):
            (pytest.fail if "CI" in os.environ else pytest.skip)(f"{name} cannot be installed: {reason}")
        (folder / "complete").touch()
    return python


def _install(python: Path, file: Path) -> str:
    """Install for that interpreter by this one's pip; why it cannot be, empty where it could."""
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    # Most of it is never imported, so nothing is compiled before that.
    options = ["--no-deps", "--no-compile", "--retries", "1", "--timeout", "15", "--requirement", str(file)]
    try:
        made = subprocess.run([*pip, *options], check=False, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"not done in {INSTALL_TIMEOUT_S} s"
    complaints = [line for line in made.stderr.splitlines() if line.startswith("ERROR: ")]
    return (complaints or [made.stderr[-300:]])[0] if made.returncode else ""
