"""Other people's clients, each version in an environment of its own: the worker's pins do not fit theirs."""

import hashlib
import os
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ORACLES, Stack
from tests.services import ROOT, Gateway
from worker.oracle_backend import text

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SUITES = Path(__file__).parent / "clients"
IDLE = """
[[families]]
name = "Idle"
[[families.models]]
repository = "corolla/idle"
name = "Idle"
backend = "oracle"
"""


def python(pins: str) -> str:
    """An interpreter with what that file pins, made once; without a package index a test is skipped, but not in CI."""
    file = SUITES / f"{pins}.txt"
    folder = ROOT / "var" / "clients" / f"{pins}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"
    interpreter = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        command = [str(interpreter), "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", str(file)]
        made = subprocess.run(command, check=False, capture_output=True, text=True, timeout=500)
        if made.returncode:
            (pytest.fail if "CI" in os.environ else pytest.skip)(f"{pins} cannot be installed: {made.stderr[-300:]}")
        (folder / "complete").touch()
    return str(interpreter)


@pytest.fixture(scope="module")
def others(_oracle: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Further gateways, by the names of the variables that tell their addresses."""
    folder = tmp_path_factory.mktemp("clients")
    path, idle = folder / "catalog.toml", folder / "idle.toml"
    path.write_text(ORACLES)
    idle.write_text(IDLE)
    url = _oracle.valkey.url
    gateways = {
        "HASTY_URL": Gateway(folder / "hasty.log", url, path, deadline_s=1),
        "FULL_URL": Gateway(folder / "full.log", url, path, max_waiting_per_client=0),
        "IDLE_URL": Gateway(folder / "idle.log", url, idle),
    }
    try:
        for gateway in gateways.values():
            gateway.start()
        yield {name: gateway.url for name, gateway in gateways.items()}
    finally:
        for gateway in gateways.values():
            gateway.kill()


@pytest.mark.parametrize(
    ("pins", "suite"),
    [
        ("openai2", "openai"),
        ("openai2", "langchain"),
        ("openai2", "litellm"),
        ("openai3", "openai"),
        ("openai3", "langchain"),
    ],
)
def test_a_client(oracle: Stack, others: dict[str, str], pins: str, suite: str) -> None:
    environ = os.environ | others | {"COROLLA_URL": oracle.gateways[0].url, "WORDS": text(7, 0, 2000)}
    # Without the conftest files of this project, which need its packages.
    folders = ["-c", os.devnull, "--rootdir", str(SUITES), "--confcutdir", str(SUITES)]
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "--import-mode=importlib", *folders]
    command = [python(pins), "-m", "pytest", *options, str(SUITES / f"suite_{suite}.py")]
    ran = subprocess.run(command, check=False, cwd=SUITES, env=environ, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
