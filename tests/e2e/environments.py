"""Other people's packages, each set in an environment of its own: the worker's pins do not fit theirs."""

import hashlib
import os
import subprocess
import venv
from pathlib import Path

import pytest

from tests.services import ROOT

PINS = Path(__file__).parent / "clients"


def interpreter(name: str) -> Path:
    """Python with what PINS/name.txt lists, made once. Without a package index a test is skipped; in CI it fails."""
    file = PINS / f"{name}.txt"
    folder = ROOT / "var" / "clients" / f"{name}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", str(file)]
        made = subprocess.run(command, check=False, capture_output=True, text=True, timeout=500)
        if made.returncode:
            (pytest.fail if "CI" in os.environ else pytest.skip)(f"{name} cannot be installed: {made.stderr[-300:]}")
        (folder / "complete").touch()
    return python
