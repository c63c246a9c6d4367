"""Whoever hears all that a broker publishes, in the order in which it happened there."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import redis.asyncio


class Ear:
    """last: the seq of each job's last event. cancelled: what that was when the broker took the cancel of a job that
    runs."""

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        self.cancelled: dict[str, int] = {}

    def more(self, job: str) -> int:
        """Tokens that the broker took of a job after its cancel; the last event is the ending."""
        return self.last[job] - 1 - self.cancelled[job]

    def hear(self, channel: bytes, message: bytes) -> None:
        """As the scripts of shared/scripts publish it."""
        if b":control:" in channel:
            word, _, job = str(message, "ascii").partition(" ")
            if word == "cancel":
                self.cancelled.setdefault(job, self.last.get(job, 0))
        else:
            job, last, _ = str(message.split(b"\n", 1)[0], "ascii").split()
            self.last[job] = int(last)


@contextlib.asynccontextmanager
async def hearing(port: int) -> AsyncIterator[Ear]:
    """An ear at the broker on that port, as long as the block runs."""
    ear, ready = Ear(), asyncio.Event()

    async def listen() -> None:
        async with redis.asyncio.Redis(port=port, protocol=2) as client, client.pubsub() as subscription:
            await subscription.psubscribe("{p}:gateway:*", "{p}:control:*")
            async for message in subscription.listen():
                ready.set()
                if message["type"] == "pmessage":
                    ear.hear(message["channel"], message["data"])

    listening = asyncio.create_task(listen())
    try:
        await ready.wait()
        yield ear
    finally:
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening
