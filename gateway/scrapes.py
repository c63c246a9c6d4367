"""GET /metrics on a port of its own: an ASGI layer, as that port is one more address of the same server."""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send


class Scrapes:
    """Answers everything that comes to `port`, and passes on what comes to any other."""

    def __init__(self, app: ASGIApp, port: int, scrape: Callable[[Request], Awaitable[Response]]) -> None:
        self._app = app
        self._port = port
        self._scrapes = Starlette(routes=[Route("/metrics", scrape)])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        own = scope["type"] != "lifespan" and scope["server"][1] == self._port
        await (self._scrapes if own else self._app)(scope, receive, send)
