"""`python -m deploy.swarm`: a Petals server on this machine's CPU, for some blocks of a model of the catalogue.

It logs the multiaddress by which workers (COROLLA_PEERS) and further servers (--peers) join it. For a server on a GPU,
or one that others reach over the internet, use Petals' own command.
"""

import argparse
import dataclasses
import json
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from deploy import identity
from shared import catalog as catalogs
from shared import logs
from shared.catalog import Catalog, CatalogError, Model
from shared.errors import CorollaError
from shared.settings import CATALOG, LOG_LEVEL, SettingError, read

CACHE_TOKENS = 65536  # 32 sessions of 2048 tokens
HANDLERS = 2  # processes that take requests; each costs memory
PEER_TIMEOUT_S = 60.0

_log = structlog.get_logger()


@dataclasses.dataclass(frozen=True)
class Settings:
    """A server's settings; each is the variable COROLLA_<NAME>."""

    catalog: str = CATALOG
    log_level: str = LOG_LEVEL


def main() -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    arguments = _parser().parse_args()
    try:
        settings = read(Settings)
        catalog = catalogs.load(settings.catalog)
        model = catalog.find(arguments.model)
        blocks = arguments.blocks or f"0:{block_count(catalog, model)}"
    except (SettingError, CatalogError, CorollaError) as error:
        print(f"swarm: {error}", file=sys.stderr)
        return 2
    identity.create(arguments.identity)
    os.environ["HF_HUB_OFFLINE"] = "1"
    logs.configure(settings.log_level)
    for library in ("petals", "hivemind.moe.server"):
        logging.getLogger(library).setLevel(logging.INFO)
    address = identity.multiaddress(arguments.identity, arguments.host, arguments.port)
    _log.info("starting", model=model.key, blocks=blocks, address=address)
    _serve(weights(catalog, model), model.dht_prefix, blocks, arguments)
    return 0


def weights(catalog: Catalog, model: Model) -> Path:
    """The folder of a model's local weights. Raises CatalogError."""
    if model.path is None:
        raise CatalogError(f"the catalogue names no path of local weights for the model {model.key}")
    return catalog.folder / model.path


def block_count(catalog: Catalog, model: Model) -> int:
    """How many blocks a model with local weights has. Raises CatalogError."""
    config = weights(catalog, model) / "config.json"
    try:
        return int(json.loads(config.read_bytes())["num_hidden_layers"])
    except (OSError, ValueError, KeyError):
        raise CatalogError(f"the weights of {model.key} are not there, or no model of Llama's kind: {config}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.swarm", description="Serve blocks of a model, on the CPU.")
    parser.add_argument("--model", help="key or alias; default: the catalogue's default model")
    parser.add_argument("--blocks", help="FIRST:END, such as 0:2; default: all")
    parser.add_argument("--host", default="127.0.0.1", help="IPv4 address to listen on; default: %(default)s")
    parser.add_argument("--port", type=int, default=31337, help="default: %(default)s")
    parser.add_argument(
        "--identity", type=Path, default=Path("var/swarm.identity"), help="made where missing; default: %(default)s"
    )
    parser.add_argument("--peers", nargs="*", default=[], help="multiaddresses to join by; none: begin a new swarm")
    return parser


def _serve(folder: Path, dht_prefix: str | None, blocks: str, arguments: argparse.Namespace) -> None:
    import worker.petals_compat  # noqa: F401  # before petals

    # isort: split
    from petals.server.server import Server  # takes seconds
    from petals.utils.convert_block import QuantType

    _wait_for_one(arguments.peers)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = Server(
        converted_model_name_or_path=str(folder),
        dht_prefix=dht_prefix,
        block_indices=blocks,
        identity_path=str(arguments.identity),
        initial_peers=arguments.peers,
        host_maddrs=[f"/ip4/{arguments.host}/tcp/{arguments.port}"],
        # It listens where it is told to. Left to find that out, a server with slow peers hides behind a relay.
        reachable_via_relay=False,
        use_relay=False,
        use_auto_relay=False,
        nat_port_map=False,
        throughput=1.0,  # measuring it needs the internet
        device="cpu",
        torch_dtype="float32",
        quant_type=QuantType.NONE,
        num_handlers=HANDLERS,
        attn_cache_tokens=CACHE_TOKENS,
    )
    try:
        server.run()
    except KeyboardInterrupt:
        _log.info("stopping")
    finally:
        server.shutdown()


def _wait_for_one(peers: Sequence[str]) -> None:
    """Return when one of the peers with an IPv4 address can be reached; they may be starting as well."""
    addresses = [(found[1], int(found[2])) for peer in peers if (found := re.match(r"/ip4/([\d.]+)/tcp/(\d+)/", peer))]
    end = time.monotonic() + PEER_TIMEOUT_S
    while addresses and time.monotonic() < end:
        for address in addresses:
            try:
                socket.create_connection(address, timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
