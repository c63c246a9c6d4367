"""Plain ASGI layers around all routes."""

import asyncio
import contextlib
import re
import secrets
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import plain_failure
from gateway.metrics import Metrics
from gateway.openai_words import failure_event, failure_for
from shared.api_keys import without_secrets

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
PREFLIGHT_AGE_S = 600
# What nginx logs where the client went before the answer.
CLIENT_GONE = 499
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

log = structlog.get_logger()


class Cors:
    """Lets pages of any origin, or of those that the operator named, read every answer, errors included.

    The origin is echoed, with `Vary: Origin`, so that caches do not mix answers up; `*` without one.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope)

        async def send_shared(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._share(MutableHeaders(scope=message), asked.get("origin"))
            await send(message)

        if scope["method"] == "OPTIONS":
            await _preflight(asked)(scope, receive, send_shared)
        else:
            await self._app(scope, receive, send_shared)

    def _share(self, headers: MutableHeaders, origin: str | None) -> None:
        if origin is not None or self._origins:
            headers.add_vary_header("Origin")
        if not self._origins:
            headers["access-control-allow-origin"] = origin or "*"
        elif origin in self._origins:
            headers["access-control-allow-origin"] = origin
        headers["access-control-expose-headers"] = "x-request-id"


class Requests:
    """Gives every request an id, logs and counts it, and turns what nobody foresaw into a plain error.

    Query strings stay out of the log: prompts may be in them.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        self._count(scope, 1)
        try:
            with structlog.contextvars.bound_contextvars(request=exchange.id):
                await self._app(scope, receive, exchange.send)
        except ClientDisconnect:
            exchange.status = CLIENT_GONE
        except asyncio.CancelledError:
            # Only a server that must stop now does this.
            await exchange.fail(503, "The server is being restarted, please try again later")
        except Exception as error:
            log.error("unforeseen error", request=exchange.id, path=scope["path"], exc_info=error)
            await exchange.fail(500, f"Internal error; the request's id is {exchange.id}")
        finally:
            exchange.log_end()
            self._count(scope, -1)
            if scope["type"] == "http":
                self._metrics.requests.labels(exchange.status).inc()

    def _count(self, scope: Scope, step: int) -> None:
        if scope["type"] == "websocket":
            self._metrics.websockets.inc(step)


class _Exchange:
    """One request on its way through."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = without_secrets(Headers(scope=scope).get("x-request-id", ""))
        self.id = given if re.fullmatch(r"[\w.-]{1,128}", given, re.ASCII) else secrets.token_hex(16)
        self.status = 0
        self._streams = False  # an event stream was begun, and not ended
        self._scope = scope
        self._send = send
        self._started = time.monotonic()

    async def send(self, message: Message) -> None:
        """Pass a message on; the first one gets headers, or says what became of a WebSocket."""
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self.status = message["status"]
                headers = MutableHeaders(scope=message)
                self._streams = headers.get("content-type", "").startswith("text/event-stream")
                headers["x-request-id"] = self.id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            case "http.response.body":
                self._streams = self._streams and message.get("more_body", False)
            case "websocket.accept":
                self.status = 101
            case "websocket.close":
                self.status = message["code"] if self.status else 403
        await self._send(message)

    async def fail(self, status: int, text: str) -> None:
        """Answer with an error, or break off what has begun."""
        if self._scope["type"] == "websocket":
            with contextlib.suppress(RuntimeError, OSError):
                await self.send({"type": "websocket.close", "code": 1011, "reason": ""})
        elif not self.status:
            answer = plain_failure(self._scope["path"], status, "RuntimeError", text)
            await answer(self._scope, _nothing, self.send)
        elif self._streams:
            # A stream that just ended would look complete.
            event = failure_event(failure_for(status, text))
            await self.send({"type": "http.response.body", "body": event, "more_body": False})

    def log_end(self) -> None:
        """One line for the request."""
        scope = self._scope
        method = scope.get("method", "WEBSOCKET")
        level = log.debug if scope["path"].startswith("/health/") else log.info
        ms = round(1000 * (time.monotonic() - self._started), 1)
        level("request", request=self.id, method=method, path=scope["path"], status=self.status, ms=ms)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _preflight(asked: Headers) -> Response:
    headers = {
        "access-control-allow-methods": METHODS,
        "access-control-allow-headers": asked.get("access-control-request-headers", "*"),
        "access-control-max-age": str(PREFLIGHT_AGE_S),
        "vary": "Access-Control-Request-Headers",
    }
    return Response("", 200, headers)
