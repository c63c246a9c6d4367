"""Clients of /v1/completions, and of /api/v1/generate, that know what they must get."""

import dataclasses
import json
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Self

import httpx

from worker.oracle_backend import text

ANSWER_TIMEOUT_S = 120.0


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of one request. exact: it is what it must be; seconds: from the request to the whole answer."""

    status: int
    headers: Mapping[str, str]
    exact: bool
    seconds: float
    error: str


class Asker:
    """Asks one gateway, over as many connections as there are questions at a time."""

    def __init__(self, url: str) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self._client = httpx.AsyncClient(base_url=url, timeout=ANSWER_TIMEOUT_S, limits=limits)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(self, seed: int, tokens: int, user: str | None = None, address: str | None = None) -> Answer:
        """A whole answer of so many tokens. address: of the client, as a proxy would tell it."""
        began = time.monotonic()
        reply = await self._client.post("/v1/completions", json=_fields(seed, tokens, user), headers=_from(address))
        content = reply.json()
        exact = reply.status_code == 200 and content["choices"][0]["text"] == text(seed, 0, tokens)
        error = "" if reply.status_code == 200 else content["error"]["code"] or content["error"]["message"]
        return Answer(reply.status_code, reply.headers, exact, time.monotonic() - began, error)

    async def ask_petals(self, seed: int, tokens: int, address: str | None = None) -> Answer:
        """Likewise, of the Petals Chat API."""
        began = time.monotonic()
        fields = {"inputs": "hi", "max_new_tokens": tokens, "seed": seed}
        reply = await self._client.post("/api/v1/generate", json=fields, headers=_from(address))
        content = reply.json()
        exact = content["ok"] and content["outputs"] == text(seed, 0, tokens)
        error = "" if content["ok"] else content["traceback"]
        return Answer(reply.status_code, reply.headers, exact, time.monotonic() - began, error)

    async def stream_text(self, seed: int, tokens: int) -> str:
        """The text of a streamed answer."""
        return "".join([event["choices"][0]["text"] async for event in self.stream(seed, tokens)])

    async def stream(self, seed: int, tokens: int, **fields: Any) -> AsyncGenerator[dict[str, Any], None]:
        """The events of an answer, one a token; who stops iterating (and closes) disconnects."""
        content = {**_fields(seed, tokens, None), "stream": True, **fields}
        async with self._client.stream("POST", "/v1/completions", json=content) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))

    async def health_s(self) -> float:
        """How long /health/live takes."""
        began = time.monotonic()
        assert (await self._client.get("/health/live")).status_code == 200
        return time.monotonic() - began


def _fields(seed: int, tokens: int, user: str | None) -> dict[str, Any]:
    return {"model": "corolla/oracle", "prompt": "hi", "max_tokens": tokens, "seed": seed, "user": user}


def _from(address: str | None) -> dict[str, str]:
    return {"x-forwarded-for": address} if address else {}
