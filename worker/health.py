"""`python -m worker.health`: exit status 0 where the broker knows a live worker of this host, else 1.

In a container or pod, whose host name no other one has, that is its own worker: its models are loaded, and it beats.
"""

import asyncio
import socket
import sys

from shared.broker import Broker
from shared.errors import BrokerUnavailable
from shared.settings import SettingError, read
from worker.settings import Settings


def main() -> int:
    """Ask the broker; the exit status."""
    try:
        settings = read(Settings)
        alive = asyncio.run(_is_alive(settings.redis_url, settings.worker_name or f"{socket.gethostname()}-"))
    except (SettingError, BrokerUnavailable) as error:
        print(f"worker.health: {error}", file=sys.stderr)
        return 1
    return 0 if alive else 1


async def _is_alive(url: str, beginning: str) -> bool:
    async with Broker(url) as broker:
        return await broker.is_alive(beginning)


if __name__ == "__main__":
    sys.exit(main())
