"""What people complain about in servers of this kind: each complaint has a test that fails without its cure.

Here, over a real broker, with a real engine behind the gateway where that matters; and elsewhere:

- a disconnect does not stop the work: test_openai_http (who leaves ...); slots leak: here, and e2e/test_faults
- characters and stop strings split over tokens: here, worker/test_detokenizer, worker/test_stopping
- usage or finish_reason missing in streams: test_openai_render, e2e/test_openai_api (a stream)
- a stream cut in silence: test_openai_http (a failure in mid-stream), test_middleware (a stopping server)
- 500 where 400 is due: test_openai_http (bad bodies), e2e/test_openai_api (refused by name), e2e/test_clients
- idle time-outs behind proxies: test_openai_http (a silent stream)
- work that is queued again is refused by its own cap: test_jobs (accepted once)
- slow readers grow memory without bound: test_hub (a slow reader), e2e/test_openai_api (a client that does not read)
"""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from shared.broker import Broker
from shared.records import Registration
from tests.gateway.conftest import MODEL, TIMING, Serve, Served
from tests.gateway.player import Player
from tests.valkey import Valkey
from tests.waiting import until_async
from tests.worker.alphabets import byte_level
from tests.worker.scripted import ScriptedBackend
from worker.consumer import Consumer
from worker.engine import Engine
from worker.metrics import Metrics
from worker.models import Served as ServedModel
from worker.outbox import Courier
from worker.sessions import Sessions

pytestmark = pytest.mark.anyio

COMPLETIONS = "/v1/completions"
SLOTS = 4


@contextlib.asynccontextmanager
async def working(valkey: Valkey, backend: ScriptedBackend) -> AsyncIterator[Engine]:
    """A worker in this process, whose model writes what it is told."""
    async with Broker(valkey.url, TIMING) as broker:
        metrics, sessions = Metrics([MODEL]), Sessions(kept=8, idle_s=60)
        courier = Courier(broker, metrics)
        engine = Engine({MODEL: ServedModel(backend, 2048)}, sessions, courier, SLOTS, 10, metrics)
        stop = asyncio.Event()
        consumer = Consumer(broker, Registration("scripted", (MODEL,), SLOTS), engine, courier, sessions)
        running = asyncio.create_task(consumer.run(stop))
        try:
            await until_async(lambda: valkey.client.exists("{p}:workers"))
            yield engine
        finally:
            stop.set()
            await running


def texts(raw: str) -> list[str]:
    """What the chunks of a stream say."""
    lines = [line.removeprefix("data: ") for line in raw.splitlines() if line.startswith("data: {")]
    return [choice["text"] for line in lines for choice in json.loads(line)["choices"]]


async def stream(gateway: Served, **fields: Any) -> httpx.Response:
    return await gateway.client.post(COMPLETIONS, json={"prompt": "hi", "stream": True} | fields)


async def test_characters_that_are_split_over_tokens_come_whole(gateway: Served, valkey: Valkey) -> None:
    text = "👋🏽 hi 👨‍👩‍👧‍👦 ሰላም"
    backend = ScriptedBackend(byte_level(), text)
    async with working(valkey, backend):
        answer = await stream(gateway, max_tokens=len(backend.script))
    assert len(backend.script) > len(texts(answer.text))
    assert "".join(texts(answer.text)) == text
    assert "\N{REPLACEMENT CHARACTER}" not in answer.text


async def test_a_stop_string_that_is_split_over_tokens_is_not_shown(gateway: Served, valkey: Valkey) -> None:
    async with working(valkey, ScriptedBackend(byte_level(), "one #two ##END and more")):
        answer = await stream(gateway, max_tokens=30, stop="##END")
    assert "".join(texts(answer.text)) == "one #two "
    assert '"finish_reason":"stop"' in answer.text


@pytest.mark.parametrize("free_steps", [0, 2])
async def test_no_error_tells_what_only_the_operator_may_know(gateway: Served, valkey: Valkey, free_steps: int) -> None:
    backend = ScriptedBackend(byte_level(), "abcdef")
    backend.failures = {free_steps + 1: RuntimeError("/secret/path says hi")}
    async with working(valkey, backend):
        answer = await stream(gateway, max_tokens=6)
    assert answer.status_code == (200 if free_steps else 500)
    assert "The worker failed at this request" in answer.text
    assert not any(word in answer.text for word in ("secret", "Traceback", "RuntimeError", "File"))


@pytest.mark.parametrize("streams", [True, False])
async def test_who_leaves_frees_a_slot(gateway: Served, valkey: Valkey, streams: bool) -> None:
    backend = ScriptedBackend(byte_level(), "a" * 2000)
    backend.pause_s = 0.01
    async with working(valkey, backend) as engine:
        for _ in range(2):
            fields = {"prompt": "hi", "max_tokens": 1500, "stream": streams}
            calls = [asyncio.create_task(gateway.client.post(COMPLETIONS, json=fields)) for _ in range(SLOTS)]
            await until_async(lambda: not engine.free)
            for call in calls:
                call.cancel()
            await until_async(lambda: engine.free == SLOTS)
    assert all(session.closed for session in backend.sessions)


async def test_to_clean_up_after_one_client_holds_up_no_other(
    gateway: Served, player: Player, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.link.ANSWER_TIMEOUT_S", 1000.0)
    asked = gateway.client.build_request("POST", COMPLETIONS, json={"prompt": "hi", "stream": True})
    asking = asyncio.create_task(gateway.client.send(asked, stream=True))
    performance = await player.take()
    await performance.say("x")
    answer = await asking
    # given a broker that does not answer when a client leaves
    valkey.send(signal.SIGSTOP)
    try:
        await answer.aclose()
        assert (await gateway.client.get("/v1/models")).status_code == 200
    finally:
        valkey.send(signal.SIGCONT)
    # and once it does, the job ends all the same
    await performance.until_cancelled()


async def test_many_who_come_at_once_are_counted_one_by_one(serve: Serve, player: Player) -> None:
    async with serve(max_waiting_per_client=3) as gateway:
        calls = [asyncio.create_task(stream(gateway)) for _ in range(10)]
        await until_async(lambda: sum(call.done() for call in calls) == 7)
        statuses = [call.result().status_code for call in calls if call.done()]
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
    assert statuses == [429] * 7


async def test_tokens_that_come_faster_than_the_broker_takes_them_travel_together(
    gateway: Served, valkey: Valkey
) -> None:
    async with working(valkey, ScriptedBackend(byte_level(), "a" * 400)):
        answer = await gateway.client.post(COMPLETIONS, json={"prompt": "hi", "max_tokens": 400})
    assert answer.json()["choices"][0]["text"] == "a" * 400
    entries = valkey.client.xlen(f"{{p}}:log:{answer.json()['id'].removeprefix('cmpl-')}")
    assert entries < 200
