"""Clients that read streams from gateways, as cheaply as they can, and see that no token is missing.

The model is the oracle, whose answers are known: whatever comes is kept as it is, and looked at when all is over.
"""

import asyncio
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import cast
from urllib.parse import urlsplit

from worker.oracle_backend import text


@dataclasses.dataclass(frozen=True)
class Answer:
    """One stream, as it came: the seed by which it was asked for, and all bytes."""

    seed: int
    raw: bytes

    def is_whole(self, tokens: int) -> bool:
        """Whether it has every token, once, and its end."""
        return self.raw.startswith(b"HTTP/1.1 200") and self._text() == text(self.seed, 0, tokens)

    def _text(self) -> str:
        lines = [line[6:] for line in self.raw.split(b"\n") if line.startswith(b"data: ")]
        if not lines or lines[-1].strip() != b"[DONE]":
            return ""
        return "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])


async def read_all(
    urls: Sequence[str], streams: int, tokens: int, took: Callable[[int], None] = lambda _: None
) -> list[Answer]:
    """So many streams at once, spread evenly over the gateways at these addresses. took: called with the number of
    tokens that a piece of a stream brought."""
    targets: Iterator[str] = itertools.cycle(urls)
    return await asyncio.gather(*(_read(next(targets), seed, tokens, took) for seed in range(1, streams + 1)))


class _Reader(asyncio.Protocol):
    """Sends a request and keeps what comes, up to its end."""

    def __init__(self, request: bytes, took: Callable[[int], None]) -> None:
        self.parts: list[bytes] = []
        self.ended = asyncio.Event()
        self._request = request
        self._took = took

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        events = data if self.parts else data.partition(b"\r\n\r\n")[2]
        self.parts.append(data)
        # Every token of the oracle ends with a space, and there is one more in the first bytes of each event.
        if tokens := events.count(b" ") - events.count(b"data: "):
            self._took(tokens)

    def connection_lost(self, _: Exception | None) -> None:
        self.ended.set()


async def _read(url: str, seed: int, tokens: int, took: Callable[[int], None]) -> Answer:
    address = urlsplit(url)
    body = json.dumps({"prompt": "hi", "seed": seed, "max_tokens": tokens, "stream": True})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    loop = asyncio.get_running_loop()
    host, port = address.hostname or "", address.port or 80
    _, reader = await loop.create_connection(lambda: _Reader(request, took), host, port)
    await reader.ended.wait()
    return Answer(seed, b"".join(reader.parts))
