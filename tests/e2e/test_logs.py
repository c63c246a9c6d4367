"""What is in no log, whatever clients send and whatever goes wrong: prompts, answers, keys, tracebacks."""

import asyncio
import contextlib
import json
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from tests.e2e.conftest import ORACLES
from tests.services import ROOT, BatchWorker, Gateway, Service, Worker
from tests.valkey import Valkey
from tests.waiting import until, until_async
from worker.oracle_backend import text

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

PEPPER = secrets.token_hex(32)
CANARY = "canary-" + secrets.token_hex(8)
SEED, TOKENS = 5, 12


@pytest.fixture
def services(valkey: Valkey, tmp_path: Path) -> Iterator[tuple[Gateway, Worker, BatchWorker]]:
    """A gateway, a worker and a batch worker that log all they can."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(ORACLES)
    files, common = str(tmp_path / "files"), {"log_level": "debug"}
    guarded = {"auth": "on", "key_pepper": PEPPER, **common}
    gateway = Gateway(tmp_path / "gateway.log", valkey.url, catalog, files, **guarded)
    worker = Worker(tmp_path / "worker.log", valkey.url, catalog, lease_ms=1000, beat_s=0.2, **common)
    batches = BatchWorker(tmp_path / "batches.log", valkey.url, catalog, files=files, **guarded)
    everything: tuple[Service, ...] = (gateway, worker, batches)
    try:
        for service in everything:
            service.start()
        until(gateway.is_ready)
        yield gateway, worker, batches
    finally:
        for service in everything:
            service.kill()


@pytest.fixture
def key(valkey: Valkey) -> str:
    """A key as the command makes it."""
    command = [sys.executable, "-m", "deploy.keys", "create", "ann", "--scope", "generate", "--scope", "batches"]
    environ = {"COROLLA_REDIS_URL": valkey.url, "COROLLA_KEY_PEPPER": PEPPER}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True).stdout.strip()


async def call_all(client: httpx.AsyncClient) -> None:
    """Calls of every kind, right ones and wrong ones, with the canary in each."""
    petals: dict[str, str | int] = {"inputs": CANARY, "max_new_tokens": TOKENS, "seed": SEED}
    prompt = {"prompt": CANARY, "max_tokens": TOKENS, "seed": SEED, "model": "corolla/oracle"}
    chat = {**prompt, "messages": [{"role": "user", "content": CANARY}]}
    good = [
        await client.post("/api/v1/generate", data=petals),
        await client.post("/api/v1/generate", params=petals),
        await client.post("/v1/completions", json={**prompt, "stream": True}),
        await client.post("/v1/chat/completions", json=chat, headers={"idempotency-key": CANARY}),
    ]
    assert [answer.status_code for answer in good] == [200] * 4, [answer.text for answer in good]
    assert text(SEED, 0, TOKENS) in good[0].json()["outputs"]
    for path in ("/api/v1/generate", "/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/tokenize"):
        for wrong in (
            {"model": CANARY, "prompt": CANARY, "inputs": CANARY, "input": CANARY, "max_new_tokens": 1},
            {**prompt, **petals, "temperature": CANARY, "input": CANARY},
            {"session_id": CANARY, "inputs": CANARY, "max_new_tokens": 1, "messages": CANARY, "max_tokens": 1},
            [CANARY],
        ):
            await client.post(path, json=wrong)
        await client.post(path, content=f'{{"prompt": "{CANARY}', headers={"content-type": "application/json"})
        await client.post(path, content=CANARY.encode() + b"\xff", headers={"content-type": CANARY})
    for path in ("/v1/jobs/x", "/v1/files/x", "/v1/batches/x", "/v1/models/x"):
        await client.get(path, params={"q": CANARY})
    for wrong_key in (CANARY, "0" * 16 + "." + "0" * 32):
        await client.post("/v1/completions", json=prompt, headers={"authorization": f"Bearer {wrong_key}"})


async def talk(gateway: Gateway, key: str) -> None:
    """Dialogues of every kind."""
    opening = {"type": "open_inference_session", "max_length": 99}
    asking = {"type": "generate", "inputs": CANARY, "max_new_tokens": TOKENS, "seed": SEED}
    for frames in (
        [json.dumps(opening), json.dumps(asking)],
        [json.dumps(opening), json.dumps({**asking, "temperature": CANARY})],
        [json.dumps(opening), CANARY],
        [CANARY.encode() + b"\xff"],
        [json.dumps({"type": CANARY})],
        [json.dumps({"type": "resume", "session_id": CANARY, "job_id": CANARY})],
    ):
        async with connect(gateway.ws_url, additional_headers={"authorization": f"Bearer {key}"}) as socket:
            try:
                for frame in frames:
                    await socket.send(frame)
                    await asyncio.wait_for(socket.recv(), 10)
            except WebSocketException:
                pass


async def misplace(gateway: Gateway, client: httpx.AsyncClient, key: str) -> None:
    """The key in every place where one may put it, the right one for pages among them."""
    offered = [Subprotocol("corolla"), Subprotocol(f"key.{key}")]
    async with connect(gateway.ws_url, subprotocols=offered) as socket:
        await socket.send(json.dumps({"type": "open_inference_session", "max_length": 99}))
        assert json.loads(await socket.recv())["ok"] is True
    for url in (f"{gateway.ws_url}?key={key}", f"{gateway.ws_url}/{key}"):
        with contextlib.suppress(WebSocketException):
            await connect(url, subprotocols=[Subprotocol(key)])
    for path in (f"/v1/models/{key}", f"/v1/jobs/{key}", f"/{key}", f"/v1/models?api_key={key}"):
        await client.get(path)
        await client.get(path, headers={"authorization": f"Basic {key}", "x-request-id": key, "origin": key})
    await client.post("/v1/completions", json={"prompt": "hi", "user": key, key: key, "model": key, "max_tokens": 1})


async def batch(client: httpx.AsyncClient) -> None:
    """A batch of one good and one wrong request."""
    bodies = [{"prompt": CANARY, "max_tokens": TOKENS, "seed": SEED}, {"prompt": CANARY, "n": CANARY}]
    lines = [
        json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body})
        for number, body in enumerate(bodies)
    ]
    upload = {"file": (f"{CANARY}.jsonl", "\n".join(lines))}
    file = (await client.post("/v1/files", files=upload, data={"purpose": "batch"})).json()["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/completions", "metadata": {"note": CANARY}}
    id = (await client.post("/v1/batches", json=asked)).json()["id"]
    async with asyncio.timeout(30):
        while (state := (await client.get(f"/v1/batches/{id}")).json())["status"] != "completed":
            await asyncio.sleep(0.05)
    assert state["request_counts"] == {"total": 2, "completed": 1, "failed": 1}


async def test_no_prompt_key_or_traceback_is_in_a_log(
    services: tuple[Gateway, Worker, BatchWorker], key: str, valkey: Valkey
) -> None:
    gateway, worker, _ = services
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=30) as client:
        # when clients do what they like
        await call_all(client)
        await talk(gateway, key)
        await misplace(gateway, client, key)
        await batch(client)
        # and a worker and the broker break in mid-answer
        fields = {"inputs": CANARY, "max_new_tokens": 100, "seed": SEED}
        asking = asyncio.create_task(client.post("/api/v1/generate", data=fields))
        await until_async(lambda: list(valkey.client.scan_iter("*worker:*:jobs")) and valkey.client.zcard("{p}:due"))
        worker.kill()
        valkey.write_through()
        valkey.kill()
        valkey.start()
        worker.start()
        assert (await asking).json()["outputs"] == text(SEED, 0, 100)
    logs = {service.name: service.log.read_text() for service in services}
    # then it is all in order
    assert all(f'"event": "{event}"' in logs["gateway"] for event in ("job", "request", "file kept", "batch accepted"))
    secret = key.partition(".")[2]
    forbidden = re.compile("|".join([CANARY, secret, PEPPER, re.escape(text(SEED, 0, 5)), "Traceback"]))
    assert {name: forbidden.findall(log)[:5] for name, log in logs.items()} == {name: [] for name in logs}
