"""Other people's clients, in the versions that clients/*.txt pin."""

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ORACLES, Stack
from tests.e2e.environments import PINS, interpreter
from tests.services import Gateway
from worker.oracle_backend import text

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

IDLE = """
[[families]]
name = "Idle"
[[families.models]]
repository = "corolla/idle"
name = "Idle"
backend = "oracle"
"""


SHORT = """
[[families]]
name = "Short"
[[families.models]]
repository = "corolla/short"
aliases = ["0"]
name = "Short answers"
backend = "oracle"
chat = { max_session_length = 64 }
"""
# What is wrong with a request may be told, but no request may break anything, or be answered in other words than those
# of the document. Left out: numbers that come as text are taken, and bounds that fields have together are not told.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


# What the lines of a gateway's log consist of: ids, names, lengths and outcomes.
LOGGED = {
    *("event", "level", "timestamp", "request", "job", "session", "model", "tenant", "method", "path", "status", "ms"),
    *("seconds", "tokens", "prompt_chars", "outcome", "address", "field", "file", "batch", "bytes", "logger"),
}


@pytest.fixture(scope="module")
def gateways(_oracle: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Gateway]]:
    """Further gateways, by the names of the variables that tell their addresses."""
    folder = tmp_path_factory.mktemp("clients")
    path, idle, short = (folder / f"{name}.toml" for name in ("catalog", "idle", "short"))
    path.write_text(ORACLES)
    idle.write_text(IDLE)
    short.write_text(SHORT)
    url = _oracle.valkey.url
    gateways = {
        "HASTY_URL": Gateway(folder / "hasty.log", url, path, deadline_s=1),
        "FULL_URL": Gateway(folder / "full.log", url, path, max_waiting_per_client=0),
        "IDLE_URL": Gateway(folder / "idle.log", url, idle),
        "SHORT_URL": Gateway(folder / "short.log", url, short),
    }
    try:
        for gateway in gateways.values():
            gateway.start()
        yield gateways
    finally:
        for gateway in gateways.values():
            gateway.kill()


@pytest.fixture
def others(gateways: dict[str, Gateway]) -> dict[str, str]:
    """Their addresses."""
    return {name: gateway.url for name, gateway in gateways.items()}


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
    run_suite(pins, suite, others | {"COROLLA_URL": oracle.gateways[0].url})


def run_suite(pins: str, suite: str, environ: dict[str, str]) -> None:
    """Run a suite with that client; it passes as a whole."""
    environ = os.environ | {"WORDS": text(7, 0, 2000)} | environ
    # Without the conftest files of this project, which need its packages.
    folders = ["-c", os.devnull, "--rootdir", str(PINS), "--confcutdir", str(PINS)]
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "--import-mode=importlib", *folders]
    command = [str(interpreter(pins)), "-m", "pytest", *options, str(PINS / f"suite_{suite}.py")]
    ran = subprocess.run(command, check=False, cwd=PINS, env=environ, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]


@pytest.mark.usefixtures("oracle")
def test_whatever_the_document_allows_is_answered_as_it_says(gateways: dict[str, Gateway], tmp_path: Path) -> None:
    gateway, key = gateways["SHORT_URL"], "sk-" + secrets.token_hex(16)
    program = interpreter("schemathesis").with_name("schemathesis")
    options = [
        "--checks",
        CHECKS,
        "--header",
        f"Authorization: Bearer {key}",
        "--max-examples",
        "60",
        "--generation-deterministic",
        "--phases",
        "coverage,fuzzing",
    ]
    command = [str(program), "run", f"{gateway.url}/openapi.json", *options]
    ran = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    # and no line of the log tells of anything but that
    assert {line["event"] for line in gateway.lines() if line["level"] != "info"} <= {"Invalid HTTP request received."}
    assert {name for line in gateway.lines() for name in line} <= LOGGED
    raw = gateway.log.read_text()
    assert len(gateway.lines()) == len(raw.splitlines())
    assert key not in raw
