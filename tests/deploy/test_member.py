"""The demo swarm of the containers: who joins whom."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import identity, member
from deploy.member import Settings
from shared import catalog
from tests.deploy.test_catalogs import CATALOGS
from tests.valkey import free_port


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDENTITIES", "PEERS"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setattr(member, name, folder)
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")


@pytest.fixture
def listener() -> Iterator[str]:
    """The multiaddress of something that listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}/p2p/Qm1"


def know(number: int, address: str) -> str:
    (member.PEERS / str(number)).write_text(address)
    return address


def peers(command: list[str]) -> list[str]:
    return command[command.index("--peers") + 1 :]


def test_the_first_server_begins_a_swarm() -> None:
    # given another server that was there once
    know(1, f"/ip4/127.0.0.1/tcp/{free_port()}/p2p/Qm1")
    # when
    command = member.server(0, 5)
    # then
    file = member.IDENTITIES / "0.identity"
    assert command == [
        *("deploy.swarm", "--blocks", "0:2", "--host", "127.0.0.1", "--port", "31337"),
        *("--identity", str(file), "--peers"),
    ]
    assert (member.PEERS / "0").read_text() == f"/dns4/swarm-0/tcp/31337/p2p/{identity.peer_id(file)}"


def test_the_first_server_comes_back_to_a_swarm_that_lives(listener: str) -> None:
    know(1, listener)
    assert peers(member.server(0, 4)) == [listener]


@pytest.mark.parametrize(("number", "blocks"), [(1, "2:5"), (2, "0:2"), (3, "2:5")])
def test_further_servers_join_and_share_the_blocks(listener: str, number: int, blocks: str) -> None:
    know(0, listener)
    command = member.server(number, 5)
    assert command[command.index("--blocks") + 1] == blocks
    assert peers(command) == [listener]


def test_a_server_keeps_its_identity() -> None:
    member.server(0, 4)
    before = (member.PEERS / "0").read_text()
    member.server(0, 4)
    assert [file.name for file in member.PEERS.iterdir()] == ["0"]
    assert (member.PEERS / "0").read_text() == before


def test_a_worker_joins_all_servers(listener: str) -> None:
    # given
    for number in (0, 1, 2):
        know(number, listener)
    know(3, f"/ip4/127.0.0.1/tcp/{free_port()}/p2p/Qm3")
    # then
    expected = {"COROLLA_PEERS": f"{listener} {listener} {listener}", "HF_HUB_OFFLINE": "1"}
    assert member.joined({"COROLLA_DTYPE": ""}) == expected | {"COROLLA_DTYPE": "float32"}
    assert member.joined({"COROLLA_DTYPE": "bfloat16"}) == expected | {"COROLLA_DTYPE": "bfloat16"}


@pytest.mark.parametrize(
    ("file", "other", "expected"),
    [
        ("local", (), True),
        ("local", ("/ip4/1.2.3.4/tcp/1/p2p/Qm",), False),
        ("public", (), False),
        ("oracle", (), False),
    ],
)
def test_when_there_is_a_swarm_of_our_own(file: str, other: tuple[str, ...], expected: bool) -> None:
    settings = Settings("", "info", other)
    assert member.has_swarm(settings, catalog.load(CATALOGS / f"{file}.toml")) is expected
