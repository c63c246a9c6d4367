"""A WebSocket client of /api/v2/generate, as plain as those of our users."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

Reply = dict[str, Any]


class Dialogue:
    """One socket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, frame: Any) -> None:
        """Send a frame: an object as JSON, str and bytes as they are."""
        await self.socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def receive(self) -> Reply:
        """The next reply."""
        reply = json.loads(await self.socket.recv())
        assert isinstance(reply, dict)
        return reply

    async def open(self, **fields: Any) -> Reply:
        """Open the session; its reply."""
        await self.send({"type": "open_inference_session", **fields})
        return await self.receive()

    async def generate(self, **fields: Any) -> AsyncIterator[Reply]:
        """Replies to a generate frame, up to the one with stop true or an error."""
        await self.send({"type": "generate", **fields})
        async for reply in self.replies():
            yield reply

    async def replies(self) -> AsyncIterator[Reply]:
        """Replies up to the one with stop true or an error."""
        while True:
            reply = await self.receive()
            yield reply
            if reply.get("stop", True):
                return

    async def text(self, **fields: Any) -> str:
        """The whole text of an answer; fails on an error."""
        replies = [reply async for reply in self.generate(**fields)]
        assert replies[-1]["ok"], replies[-1]
        return "".join(reply["outputs"] for reply in replies)


@contextlib.asynccontextmanager
async def dialogue(url: str, **options: Any) -> AsyncIterator[Dialogue]:
    """A socket to a gateway's /api/v2/generate."""
    async with connect(url, **options) as socket:
        yield Dialogue(socket)
