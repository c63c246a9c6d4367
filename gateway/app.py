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
from starlette.routing import BaseRoute, Route, WebSocketRoute

from gateway.census import Census
from gateway.docs import Docs
from gateway.errors import http_failure
from gateway.gateway import Gateway, build
from gateway.guard import Guard
from gateway.middleware import Cors, Requests
from gateway.openai_batches import BatchesApi
from gateway.openai_files import FilesApi
from gateway.openai_http import OpenAi
from gateway.openai_jobs import JobsApi
from gateway.openai_readings import Readings
from gateway.pages import Pages
from gateway.petals_http import PetalsHttp
from gateway.petals_socket import PetalsSocket
from gateway.scrapes import Scrapes
from gateway.settings import Settings
from gateway.status import Status
from gateway.swarm import SwarmStatus
from gateway.tracing import Tracing
from shared import traces
from shared.catalog import Catalog
from shared.keys import Timing

log = structlog.get_logger()


def create_app(settings: Settings, catalog: Catalog, timing: Timing | None = None) -> Starlette:
    """The gateway as an ASGI application; it connects to the broker when it starts. Raises SettingError."""
    gateway = build(settings, catalog, timing)
    census = Census(gateway.broker, gateway.catalog.models, gateway.metrics.registry)
    routes = _routes(gateway)
    layers = [Middleware(Cors, settings.cors_origins), Middleware(Tracing), Middleware(Requests, gateway.metrics)]
    if settings.needs_keys:
        layers.append(Middleware(Guard, gateway.keys))
    if settings.metrics_bind:
        layers.insert(0, Middleware(Scrapes, settings.metrics_bind[1], census.scrape))
    else:
        routes.append(Route("/metrics", census.scrape))
    app = Starlette(
        routes=routes,
        middleware=layers,
        exception_handlers={HTTPException: http_failure},
        lifespan=lambda _: _living(gateway),
    )
    app.state.drain = gateway.drain
    return app


def batch_app(gateway: Gateway) -> Starlette:
    """What answers the requests of batches."""
    requests = Middleware(Requests, gateway.metrics)
    return Starlette(routes=_answers(gateway), middleware=[requests], lifespan=lambda _: _living(gateway))


@contextlib.asynccontextmanager
async def _living(gateway: Gateway) -> AsyncIterator[None]:
    async with contextlib.aclosing(gateway):
        hub = asyncio.create_task(gateway.hub.run())
        hub.add_done_callback(_stop_where_failed)
        try:
            yield
        finally:
            await gateway.jobs.close()
            hub.cancel()
            await asyncio.wait({hub})
            await asyncio.to_thread(traces.close)


def _routes(gateway: Gateway) -> list[BaseRoute]:
    petals, openai, status, pages = PetalsHttp(gateway), OpenAi(gateway), Status(gateway), Pages()
    readings, jobs, docs = Readings(gateway), JobsApi(gateway), Docs()
    return [
        Route("/", pages.index),
        Route("/status", pages.status),
        Route("/web/{version}/{path:path}", pages.file),
        Route("/docs", docs.docs),
        Route("/docs.css", docs.style),
        Route("/openapi.json", docs.openapi),
        Route("/health/live", status.live),
        Route("/health/ready", status.ready),
        Route("/api/v1/models", status.models),
        Route("/api/v1/status", SwarmStatus(gateway).status),
        Route("/api/v1/generate", petals.generate, methods=["POST"]),
        Route("/api/v1/open_inference_session", petals.open_session, methods=["GET", "POST"]),
        Route("/api/v1/close_inference_session", petals.close_session, methods=["GET", "POST"]),
        Route("/v1/models", openai.models),
        Route("/v1/models/{name:path}", openai.model),
        *_answers(gateway),
        Route("/v1/tokenize", readings.tokenize, methods=["POST"]),
        Route("/v1/detokenize", readings.detokenize, methods=["POST"]),
        Route("/v1/cancel", jobs.cancel, methods=["POST"]),
        Route("/v1/jobs/{id}", jobs.state),
        Route("/v1/jobs/{id}", jobs.delete, methods=["DELETE"]),
        Route("/v1/jobs/{id}/stream", jobs.stream),
        *(_batches(gateway) if gateway.settings.batch_api == "on" else ()),
        WebSocketRoute("/api/v2/generate", PetalsSocket(gateway).serve),
    ]


def _batches(gateway: Gateway) -> list[BaseRoute]:
    files, batches = FilesApi(gateway), BatchesApi(gateway)
    return [
        Route("/v1/files", files.list),
        Route("/v1/files", files.create, methods=["POST"]),
        Route("/v1/files/{id}", files.show),
        Route("/v1/files/{id}", files.delete, methods=["DELETE"]),
        Route("/v1/files/{id}/content", files.content),
        Route("/v1/batches", batches.list),
        Route("/v1/batches", batches.create, methods=["POST"]),
        Route("/v1/batches/{id}", batches.show),
        Route("/v1/batches/{id}/cancel", batches.cancel, methods=["POST"]),
    ]


def _answers(gateway: Gateway) -> list[BaseRoute]:
    """What answers one request with one object, and so may be asked in a batch too: see batch_records.ENDPOINTS."""
    openai, readings = OpenAi(gateway), Readings(gateway)
    return [
        Route("/v1/completions", openai.completions, methods=["POST"]),
        Route("/v1/chat/completions", openai.chat, methods=["POST"]),
        Route("/v1/embeddings", readings.embeddings, methods=["POST"]),
    ]


def _stop_where_failed(hub: "asyncio.Task[None]") -> None:
    """A gateway that hears no events is of no use: end in order, and let a supervisor start it again."""
    if not hub.cancelled() and hub.exception():
        log.critical("the hub failed", exc_info=hub.exception())
        os.kill(os.getpid(), signal.SIGTERM)
