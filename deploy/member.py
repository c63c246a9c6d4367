"""`python -m deploy.member server NUMBER`, `python -m deploy.member worker`: the demo swarm of docker-compose.yml.

Become one of its servers, or a worker that joins it. As in the local stack there is such a swarm where the default
model of the catalogue has weights of its own, unless COROLLA_PEERS names another swarm: then a server has nothing to
do, and a worker starts as it is told to. Each server writes its address to a file in PEERS, which all of them share.
"""

import dataclasses
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import structlog

from deploy import identity
from deploy.swarm import block_count
from shared import catalog as catalogs
from shared import logs
from shared.catalog import Catalog, CatalogError
from shared.settings import CATALOG, LOG_LEVEL, SettingError, read, words

SERVERS = 2
PORT = 31337
IDENTITIES = Path("/swarm")
PEERS = Path("/peers")
PERIOD_S = 0.5
CONNECT_TIMEOUT_S = 1.0

_log = structlog.get_logger()


@dataclasses.dataclass(frozen=True)
class Settings:
    """A member's settings; each is the variable COROLLA_<NAME>."""

    catalog: str = CATALOG
    log_level: str = LOG_LEVEL
    peers: tuple[str, ...] = words("", "multiaddresses to join another swarm by")


def main() -> int:
    """Become a server or a worker. Returns where that is impossible: the exit status."""
    try:
        settings = read(Settings)
        catalog = catalogs.load(settings.catalog)
        logs.configure(settings.log_level)
        own = has_swarm(settings, catalog)
        match sys.argv[1:]:
            case ["server", number] if own:
                _become(*server(int(number), block_count(catalog, catalog.default)))
            case ["server", _]:
                _log.info("idle", reason="workers join another swarm")
                signal.pause()
            case ["worker"] if own:
                _become("worker", **joined(os.environ))
            case ["worker"]:
                _become("worker")
    except (SettingError, CatalogError) as error:
        print(f"member: {error}", file=sys.stderr)
        return 2
    print("usage: python -m deploy.member server NUMBER | worker", file=sys.stderr)
    return 2


def has_swarm(settings: Settings, catalog: Catalog) -> bool:
    """Whether the demo swarm is the one that is to be used."""
    return not settings.peers and catalog.default.backend == "petals" and catalog.default.path is not None


def server(number: int, blocks: int) -> list[str]:
    """Make a server known; its command. The first one begins a new swarm, unless it comes back to one that lives.

    Servers beyond the first SERVERS hold the same blocks once more.
    """
    file = IDENTITIES / f"{number}.identity"
    identity.create(file)
    draft = PEERS / f"{number}.{os.getpid()}"
    draft.write_text(f"/dns4/swarm-{number}/tcp/{PORT}/p2p/{identity.peer_id(file)}")
    draft.replace(PEERS / str(number))
    while not (friends := _listening(but=number)) and number:
        time.sleep(PERIOD_S)
    share = number % SERVERS
    part = f"{blocks * share // SERVERS}:{blocks * (share + 1) // SERVERS}"
    host = socket.gethostbyname(socket.gethostname())
    command = ["deploy.swarm", "--blocks", part, "--host", host, "--port", str(PORT), "--identity", str(file)]
    return [*command, "--peers", *friends.values()]


def joined(environ: Mapping[str, str]) -> dict[str, str]:
    """Wait for the first SERVERS; the environment by which a worker joins them, in the demo model's number format."""
    _log.info("waiting", servers=SERVERS)
    while not (found := _listening()).keys() >= set(range(SERVERS)):
        time.sleep(PERIOD_S)
    dtype = environ.get("COROLLA_DTYPE") or "float32"
    return {"COROLLA_PEERS": " ".join(found.values()), "COROLLA_DTYPE": dtype, "HF_HUB_OFFLINE": "1"}


def _listening(but: int | None = None) -> dict[int, str]:
    """The servers that can be reached, by number: their addresses."""
    numbers = sorted(int(file.name) for file in PEERS.iterdir() if file.name.isdecimal())
    return {number: address for number in numbers if number != but and (address := _reached(number))}


def _reached(number: int) -> str | None:
    """The address of a server that listens; else None."""
    try:
        address = (PEERS / str(number)).read_text()
        found = re.match(r"/(?:dns4|ip4)/([^/]+)/tcp/(\d+)/", address)
        assert found, address
        socket.create_connection((found[1], int(found[2])), CONNECT_TIMEOUT_S).close()
    except OSError:
        return None
    return address


def _become(*module: str, **environ: str) -> None:
    os.execve(sys.executable, [sys.executable, "-m", *module], {**os.environ, **environ})


if __name__ == "__main__":
    sys.exit(main())
