"""The application: routes, layers, and what lives as long as it runs."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from gateway.errors import http_failure
from gateway.gateway import Gateway, build
from gateway.middleware import Cors, Requests
from gateway.pages import WEB, Pages
from gateway.petals_http import PetalsHttp
from gateway.petals_socket import PetalsSocket
from gateway.settings import Settings
from gateway.status import Status
from shared.catalog import Catalog
from shared.keys import Timing

log = structlog.get_logger()


def create_app(settings: Settings, catalog: Catalog, timing: Timing | None = None) -> Starlette:
    """The gateway as an ASGI application; it connects to the broker when it starts."""
    gateway = build(settings, catalog, timing)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with gateway.broker:
            hub = asyncio.create_task(gateway.hub.run())
            hub.add_done_callback(_stop_where_failed)
            try:
                yield
            finally:
                await gateway.jobs.close()
                hub.cancel()
                await asyncio.wait({hub})

    return Starlette(
        routes=_routes(gateway),
        middleware=[Middleware(Cors, settings.cors_origins), Middleware(Requests, gateway.metrics)],
        exception_handlers={HTTPException: http_failure},
        lifespan=lifespan,
    )


def _routes(gateway: Gateway) -> list[BaseRoute]:
    petals, status = PetalsHttp(gateway), Status(gateway)
    return [
        Route("/", Pages(gateway.catalog).index),
        Mount("/web", StaticFiles(directory=WEB)),
        Route("/health/live", status.live),
        Route("/health/ready", status.ready),
        Route("/metrics", gateway.metrics.scrape),
        Route("/api/v1/models", status.models),
        Route("/api/v1/generate", petals.generate, methods=["POST"]),
        Route("/api/v1/open_inference_session", petals.open_session, methods=["GET", "POST"]),
        Route("/api/v1/close_inference_session", petals.close_session, methods=["GET", "POST"]),
        WebSocketRoute("/api/v2/generate", PetalsSocket(gateway).serve),
    ]


def _stop_where_failed(hub: "asyncio.Task[None]") -> None:
    """A gateway that hears no events is of no use: end in order, and let a supervisor start it again."""
    if not hub.cancelled() and hub.exception():
        log.critical("the hub failed", exc_info=hub.exception())
        os.kill(os.getpid(), signal.SIGTERM)
