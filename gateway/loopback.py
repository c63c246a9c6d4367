"""Requests to an application in this process, without a socket."""

import asyncio
import dataclasses
from collections.abc import Mapping

from starlette.types import ASGIApp, Message


@dataclasses.dataclass(frozen=True)
class Answer:
    """What it answered; header names are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def post(app: ASGIApp, path: str, body: bytes, headers: Mapping[str, str], client: str) -> Answer:
    """The answer to a JSON body. client: whose request it is, where others have an address."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": (client, 0),
        "server": ("localhost", 0),
    }
    coming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        if not coming:
            await asyncio.Event().wait()  # who asks is there until it is cancelled
        return coming.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    asking = asyncio.current_task()
    if asking and asking.cancelling():
        raise asyncio.CancelledError  # for which the application may have had an answer of its own
    fields = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], fields, b"".join(message.get("body", b"") for message in sent[1:]))
