"""Server-sent events: a stream that says when it lives, when it fails, and that ends when its reader leaves."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.presence import unless_gone
from shared.errors import CorollaError

# An error may still have its own status as long as nothing was sent; but proxies want to hear something in time.
COMMIT_S = 5.0
PING_S = 10.0
# One line break: after two, the official client takes it for an event.
PING = b": ping\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """An ASGI application that sends `chunks`, each one or more events.

    refusal: the answer where they fail before the first one; failure: the last event where they fail later.
    Who disconnects ends them.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        refusal: Callable[[CorollaError], Response],
        failure: Callable[[CorollaError], bytes],
    ) -> None:
        self._chunks = chunks
        self._refusal = refusal
        self._failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        await unless_gone(Request(scope, receive), self._run(scope, receive, send))

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = _Writer(send)
        async with contextlib.aclosing(self._chunks), contextlib.aclosing(_with_pings(self._chunks)) as chunks:
            try:
                async for chunk in chunks:
                    await writer.write(chunk)
            except CorollaError as error:
                if not writer.begun:
                    await self._refusal(error)(scope, receive, send)
                    return
                await writer.write(self._failure(error))
        await writer.end()


class _Writer:
    def __init__(self, send: Send) -> None:
        self.begun = False
        self._send = send

    async def write(self, chunk: bytes) -> None:
        """Send it, the headers before the first one."""
        if not self.begun:
            self.begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        """The stream is complete."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _with_pings(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The chunks, and a comment whenever none came for a while."""
    patience_s = COMMIT_S
    while True:
        coming = asyncio.ensure_future(anext(chunks))
        try:
            while not (await asyncio.wait({coming}, timeout=patience_s))[0]:
                yield PING
                patience_s = PING_S
            chunk = coming.result()
        except StopAsyncIteration:
            return
        finally:
            coming.cancel()
            await asyncio.wait({coming})
        patience_s = PING_S
        if chunk:
            yield chunk
