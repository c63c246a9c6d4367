"""Waiting for a broker that is away; the only place of the gateway that tries again."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.errors import BrokerUnavailable

T = TypeVar("T")

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
# How long a client waits for what comes before a job: opening or finding a session.
BRIEF_S = 10.0


async def patiently(operation: Callable[[], Awaitable[T]], patience_s: float) -> T:
    """What `operation` gives, repeated while the broker is away. Raises BrokerUnavailable after `patience_s`."""
    clock = asyncio.get_running_loop().time
    end, pause_s = clock() + patience_s, FIRST_PAUSE_S
    while True:
        try:
            return await operation()
        except BrokerUnavailable:
            if clock() + pause_s >= end:
                raise
        await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
