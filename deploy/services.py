"""The services of the local stack, as data."""

import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from deploy import identity, ports
from deploy.keeper import Service
from deploy.swarm import block_count
from shared.broker import Broker
from shared.catalog import Catalog
from shared.errors import BrokerUnavailable

REDIS_PORT = 6479
SWARM_PORT = 31337
HAND_OVER_S = 2.0  # for words to the broker in the place of a worker that has ended

_HEALTH = "GET /health/{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@dataclasses.dataclass(frozen=True)
class Wish:
    """What the stack should hold. catalog_file, state: as absolute paths. port: of the first gateway."""

    catalog_file: Path
    catalog: Catalog
    state: Path
    workers: int
    gateways: int
    port: int


def stages(wish: Wish) -> list[list[Service]]:
    """All services, in the order in which they stop backwards: broker, swarm, workers, gateways and batches.

    A swarm is there where the default model has weights of its own on this machine. Raises CatalogError.
    """
    redis_port = ports.first_free(REDIS_PORT)
    model = wish.catalog.default
    servers: list[Service] = []
    environ = {
        "COROLLA_CATALOG": str(wish.catalog_file),
        "COROLLA_REDIS_URL": f"redis://{ports.HOST}:{redis_port}/0",
        "COROLLA_FILES": str(wish.state / "files"),
    }
    needs = [redis_port]
    if model.backend == "petals" and model.path is not None:
        swarm = _swarm_peers(wish, block_count(wish.catalog, model))
        servers = [_server(number, swarm, environ) for number in range(len(swarm))]
        environ |= {"COROLLA_PEERS": " ".join(peer.address for peer in swarm), "HF_HUB_OFFLINE": "1"}
        needs += [peer.port for peer in swarm]
    workers = [_worker(number, environ, tuple(needs)) for number in range(1, wish.workers + 1)]
    batches = _python_service("batches", "gateway.batch_worker", environ, (redis_port,))
    gateways = [_gateway(number, environ, wish.port + number - 1) for number in range(1, wish.gateways + 1)]
    return [[_broker(wish.state, redis_port)], servers, workers, [*gateways, batches]]


async def is_served(port: int) -> bool:
    """Whether the gateway on that port says that the whole is ready."""
    return await ports.answers(port, _HEALTH.format("ready").encode(), b"HTTP/1.1 200")


def _broker(state: Path, port: int) -> Service:
    async def is_ready(_: bytes) -> bool:
        return await ports.answers(port, b"PING\r\n", b"+PONG")

    command = _python("deploy.redis", "--port", str(port), "--dir", str(state / "redis"))
    return Service("valkey", command, is_ready, f" on {ports.HOST}:{port}")


@dataclasses.dataclass(frozen=True)
class _Peer:
    """A server of the swarm: its identity file, its port, its multiaddress, its blocks (FIRST:END)."""

    identity: Path
    port: int
    address: str
    blocks: str


def _swarm_peers(wish: Wish, blocks: int) -> list[_Peer]:
    """Two servers with half of the blocks each."""
    peers: list[_Peer] = []
    port = SWARM_PORT - 1
    for number, share in enumerate((f"0:{blocks // 2}", f"{blocks // 2}:{blocks}")):
        port = ports.first_free(port + 1)
        file = wish.state / f"swarm-{number}.identity"
        identity.create(file)
        peers.append(_Peer(file, port, identity.multiaddress(file, ports.HOST, port), share))
    return peers


def _server(number: int, swarm: list[_Peer], environ: dict[str, str]) -> Service:
    own = swarm[number]

    async def command() -> list[str]:
        # The first one begins a new swarm, unless it comes back to one that lives.
        others = [peer for peer in swarm if peer is not own]
        friends = others if number else [peer for peer in others if await ports.answers(peer.port)]
        line = await _python("deploy.swarm", "--blocks", own.blocks, "--port", str(own.port))()
        return [*line, "--identity", str(own.identity), "--peers", *(peer.address for peer in friends)]

    async def is_ready(log: bytes) -> bool:
        return b'"Started"' in log

    # One thread each: more would only fight with the worker's for a model this small.
    return Service(
        f"swarm-{number}",
        command,
        is_ready,
        f" on {ports.HOST}:{own.port}, blocks {own.blocks}",
        {**environ, "OMP_NUM_THREADS": "1"},
    )


def _python_service(name: str, module: str, environ: dict[str, str], needs: tuple[int, ...]) -> Service:
    """A service that says in its log when it is ready."""

    async def is_ready(log: bytes) -> bool:
        return b'"event": "ready"' in log

    return Service(name, _python(module), is_ready, "", environ, needs)


def _worker(number: int, environ: dict[str, str], needs: tuple[int, ...]) -> Service:
    name = f"worker-{number}"

    async def hand_over() -> None:
        # Others take on what it held at once, not only when its leases end; where the broker is away, they do so then.
        with contextlib.suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(HAND_OVER_S), Broker(environ["COROLLA_REDIS_URL"]) as broker:
                await broker.leave(name)

    service = _python_service(name, "worker", {**environ, "COROLLA_WORKER_NAME": name}, needs)
    return dataclasses.replace(service, clean_up=hand_over)


def _gateway(number: int, environ: dict[str, str], port: int) -> Service:
    async def is_ready(_: bytes) -> bool:
        return await ports.answers(port, _HEALTH.format("live").encode(), b"HTTP/1.1 200")

    # Metrics where it listens: another address, which is for workers, could not be had by both.
    address = {"COROLLA_BIND": f"{ports.HOST}:{port}", "COROLLA_METRICS_BIND": ""}
    return Service(
        f"gateway-{number}", _python("gateway"), is_ready, f" on {ports.HOST}:{port}", {**environ, **address}
    )


def _python(*arguments: str) -> Callable[[], Awaitable[list[str]]]:
    async def command() -> list[str]:
        return [sys.executable, "-m", *arguments]

    return command
