"""A reader of one streamed answer over a WebSocket, which costs next to nothing: frames are counted, not parsed."""

import asyncio
import base64
import json
import os
from collections.abc import Callable
from typing import TypeVar, cast
from urllib.parse import urlsplit

import msgspec

MASK = bytes(4)  # a mask of zeros leaves frames as they are (RFC 6455, 5.3)


class Stream(asyncio.Protocol):
    """One socket. tokens: how many came so far; every token of the oracle ends with the only space of its frame.

    took: called with the number of tokens that a piece of the stream brought.
    """

    def __init__(self, took: Callable[[int], None]) -> None:
        self.tokens = 0
        self._took = took
        self._said = bytearray()
        self._upgraded = asyncio.Event()
        self._ended = asyncio.Event()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._said += data
        if not self._upgraded.is_set():
            if b"\r\n\r\n" in self._said:
                self._said.clear()
                self._upgraded.set()
        elif tokens := data.count(b" "):
            self.tokens += tokens
            self._took(tokens)
        if b'"stop":true' in data or b'"ok":false' in data:
            self._ended.set()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._ended.set()

    async def open(self) -> None:
        """Open a session, without waiting for the reply."""
        await self._upgraded.wait()
        self._send({"type": "open_inference_session", "max_length": 1024})

    async def ask(self, **fields: object) -> None:
        """Open a session and ask for an answer."""
        await self.open()
        self._send({"type": "generate", **fields})

    async def text(self) -> str:
        """The whole answer, when it has ended."""
        await self._ended.wait()
        self.close()
        return "".join(frame.get("outputs", "") for frame in _frames(bytes(self._said)))

    def close(self) -> None:
        """Drop the connection."""
        assert self._transport
        self._transport.close()

    def _send(self, message: dict[str, object]) -> None:
        payload = json.dumps(message).encode()
        assert len(payload) < 1 << 16
        self.write(bytes([0x81, 0x80 | 126]) + len(payload).to_bytes(2, "big") + MASK + payload)

    def write(self, frame: bytes) -> None:
        """Send a masked frame."""
        assert self._transport
        self._transport.write(frame)


S = TypeVar("S", bound=Stream)


async def connect(url: str, make: Callable[[], S]) -> S:
    """A stream from the gateway with that address."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    loop = asyncio.get_running_loop()
    transport, stream = await loop.create_connection(make, address.hostname, address.port)
    key = base64.b64encode(os.urandom(16)).decode()
    transport.write(
        f"GET /api/v2/generate HTTP/1.1\r\nHost: {address.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    return stream


def _frames(said: bytes) -> list[dict[str, str]]:
    """Whole text frames of a server, which never masks them and here never splits a message."""
    frames, at = [], 0
    while at < len(said):
        size, at = said[at + 1], at + 2
        if size == 126:
            size, at = int.from_bytes(said[at : at + 2], "big"), at + 2
        if said[at : at + 1] == b"{":
            frames.append(msgspec.json.decode(said[at : at + size], type=dict))
        at += size
    return frames
