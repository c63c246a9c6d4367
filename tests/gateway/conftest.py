"""A gateway with real parts around it: Valkey, uvicorn, and a worker that plays what a test tells it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest

from gateway.app import create_app
from gateway.server import listen, server
from gateway.settings import Settings
from shared.broker import Broker
from shared.catalog import Catalog, Chat, Family, Model
from shared.keys import Timing
from shared.settings import read
from tests.gateway.player import Player
from tests.valkey import Valkey
from tests.waiting import until_async

MODEL = "corolla/demo"
SECRET = "corolla/secret"
CHAT = Chat(max_session_length=2048)
TIMING = Timing(check_s=0.2, lease_ms=60_000)  # a player registers once


class Served:
    """A gateway that listens: its address, and an HTTP client for it."""

    def __init__(self, port: int, client: httpx.AsyncClient) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.ws_url = f"ws://127.0.0.1:{port}/api/v2/generate"
        self.client = client


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def catalog() -> Catalog:
    """Two models; the second one is not for everybody."""
    demo = Model(MODEL, "Demo", aliases=("demo",), chat=CHAT, model_card="https://example.com/card", license="MIT")
    secret = Model(SECRET, "Secret", adapter="corolla/adapter", public_api=False, chat=CHAT)
    return Catalog((Family("First", (demo,)), Family("Second", (secret,))), Path())


def settings(url: str, **values: str | int | float) -> Settings:
    """Settings as an operator would make them."""
    return read(Settings, {"COROLLA_REDIS_URL": url, **{f"COROLLA_{k.upper()}": str(v) for k, v in values.items()}})


@pytest.fixture
def serve(valkey: Valkey, catalog: Catalog) -> Serve:
    """Serves a gateway with these settings on a free port."""

    @contextlib.asynccontextmanager
    async def serve(**values: str | int | float) -> AsyncIterator[Served]:
        chosen = settings(str(values.pop("redis_url", valkey.url)), **values)
        listeners = [listen("127.0.0.1", 0), *([listen(*chosen.metrics_bind)] if chosen.metrics_bind else [])]
        running = server(create_app(chosen, catalog, TIMING), chosen)
        task = asyncio.create_task(running.serve(listeners))
        try:
            await until_async(lambda: running.started)
            port = listeners[0].getsockname()[1]
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                yield Served(port, client)
        finally:
            running.should_exit = True
            await task

    return serve


@pytest.fixture
async def gateway(serve: Serve) -> AsyncIterator[Served]:
    """A gateway with default settings."""
    async with serve() as served:
        yield served


@pytest.fixture
async def broker(valkey: Valkey) -> AsyncIterator[Broker]:
    """The broker, as a worker uses it."""
    async with Broker(valkey.url, TIMING) as broker:
        yield broker


@pytest.fixture
async def player(broker: Broker) -> Player:
    """A registered worker for both models."""
    player = Player(broker, (MODEL, "corolla/adapter"))
    await player.enter()
    return player
