"""Health and the catalogue, over a real broker."""

import pytest

from tests.gateway.conftest import MODEL, Serve, Served
from tests.gateway.player import Player
from tests.valkey import Valkey

pytestmark = pytest.mark.anyio


async def test_live(gateway: Served) -> None:
    answer = await gateway.client.get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"ok": True})


async def test_ready(gateway: Served, player: Player) -> None:
    answer = await gateway.client.get("/health/ready")
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "model": MODEL, "live_workers": 1})


async def test_not_ready_without_a_worker(gateway: Served) -> None:
    answer = await gateway.client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json() == {"ok": False, "missing": [f"live worker for {MODEL}"]}


async def test_not_ready_without_the_broker(serve: Serve) -> None:
    async with serve(redis_url="redis://127.0.0.1:1/0") as gateway:
        answer = await gateway.client.get("/health/ready")
        assert (await gateway.client.get("/health/live")).status_code == 200
    assert (answer.status_code, answer.json()) == (503, {"ok": False, "missing": ["broker"]})


CHAT = {
    "max_session_length": 2048,
    "sep_token": "###",
    "stop_token": "###",
    "extra_stop_sequences": ["</s>"],
    "generation_params": {"do_sample": 1, "temperature": 0.6, "top_p": 0.9},
}


async def test_models(gateway: Served, player: Player) -> None:
    answer = await gateway.client.get("/api/v1/models")
    demo = {
        "key": MODEL,
        "aliases": ["demo"],
        "backend": {"repository": MODEL, "adapter": None, "public_api": True},
        "frontend": {"name": "Demo", "model_card": "https://example.com/card", "license": "MIT"},
        "chat": CHAT,
        "live_workers": 1,
    }
    secret = {
        "key": "corolla/adapter",
        "aliases": [],
        "backend": {"repository": "corolla/secret", "adapter": "corolla/adapter", "public_api": False},
        "frontend": {"name": "Secret", "model_card": "", "license": ""},
        "chat": CHAT,
        "live_workers": 1,
    }
    families = [{"name": "First", "models": [demo]}, {"name": "Second", "models": [secret]}]
    assert answer.json() == {"default": MODEL, "max_prompt_chars": 100_000, "families": families}


async def test_models_without_the_broker(serve: Serve, valkey: Valkey) -> None:
    async with serve(redis_url="redis://127.0.0.1:1/0") as gateway:
        families = (await gateway.client.get("/api/v1/models")).json()["families"]
    assert [model["live_workers"] for family in families for model in family["models"]] == [0, 0]
