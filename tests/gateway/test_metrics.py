"""What GET /metrics says after known events."""

import asyncio
import math
import re
import signal

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from shared.errors import Code
from shared.messages import FinishReason, JobFailed
from tests.gateway.conftest import MODEL, Serve, Served
from tests.gateway.player import Player
from tests.valkey import Valkey, free_port

pytestmark = pytest.mark.anyio

ASKED = {"inputs": "hi", "max_new_tokens": 3}


async def scrape(gateway: Served) -> dict[str, float]:
    """Every sample, but for those of time and of buckets: by name and label values."""
    answer = await gateway.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        sample.name + "".join(f"|{value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if not re.search(r"_(created|bucket|sum)$", sample.name)
    }


async def test_all_that_may_happen_to_a_model_is_counted_from_the_start(gateway: Served) -> None:
    # An event that came with a new series would be no increase, and so unseen by an alert.
    found = await scrape(gateway)
    for model in (MODEL, "corolla/adapter"):
        assert {code: found[f"corolla_request_failure_total|{code}|{model}"] for code in Code} == dict.fromkeys(Code, 0)
        for reason in FinishReason:
            assert found[f"vllm:request_success_total|{reason}|{model}"] == 0
        for name in ("time_to_first_token", "inter_token_latency", "e2e_request_latency"):
            assert found[f"vllm:{name}_seconds_count|{model}"] == 0
        for name in ("num_requests_waiting", "num_requests_running", "prompt_tokens_total", "generation_tokens_total"):
            assert found[f"vllm:{name}|{model}"] == 0


async def test_answers_are_counted_by_how_they_end(gateway: Served, player: Player) -> None:
    async with player.playing("a", "b", "c"):
        assert (await gateway.client.post("/api/v1/generate", data=ASKED)).json()["outputs"] == "abc"
    found = await scrape(gateway)
    assert found[f"vllm:request_success_total|length|{MODEL}"] == 1
    assert found[f"vllm:prompt_tokens_total|{MODEL}"] == 1
    assert found[f"vllm:generation_tokens_total|{MODEL}"] == 3
    assert found[f"vllm:time_to_first_token_seconds_count|{MODEL}"] == 1
    assert found[f"vllm:e2e_request_latency_seconds_count|{MODEL}"] == 1
    assert found[f"vllm:num_requests_waiting|{MODEL}"] == 0
    assert found[f"vllm:num_requests_running|{MODEL}"] == 0
    assert found["corolla_http_requests_total|200"] == 1


async def test_requests_that_wait_or_run_are_told_apart(gateway: Served, player: Player) -> None:
    # given a request that no worker has answered yet
    asking = asyncio.create_task(gateway.client.post("/api/v1/generate", data=ASKED))
    performance = await player.take()
    assert (await scrape(gateway))[f"vllm:num_requests_waiting|{MODEL}"] == 1
    # when its first tokens come
    await performance.say("a", "b")
    await _until(gateway, f"vllm:num_requests_running|{MODEL}", 1)
    # then it waits no longer, and after its end it does not run either
    assert (await scrape(gateway))[f"vllm:num_requests_waiting|{MODEL}"] == 0
    await performance.finish("c", reason=FinishReason.STOP)
    await asking
    found = await scrape(gateway)
    assert found[f"vllm:num_requests_running|{MODEL}"] == 0
    assert found[f"vllm:inter_token_latency_seconds_count|{MODEL}"] == 1
    assert found[f"vllm:request_success_total|stop|{MODEL}"] == 1


async def test_failures_are_counted_by_code(gateway: Served, player: Player) -> None:
    asking = asyncio.create_task(gateway.client.post("/api/v1/generate", data=ASKED))
    await (await player.take()).say(ending=JobFailed(Code.SWARM, "no"))
    await asking
    found = await scrape(gateway)
    assert found[f"corolla_request_failure_total|swarm|{MODEL}"] == 1
    assert found[f"vllm:num_requests_waiting|{MODEL}"] == 0
    assert found[f"vllm:request_success_total|stop|{MODEL}"] == 0


async def test_a_refused_request_is_a_failure_too(serve: Serve, player: Player) -> None:
    async with serve(max_waiting=0) as gateway:
        assert not (await gateway.client.post("/api/v1/generate", data=ASKED)).json()["ok"]
        found = await scrape(gateway)
    assert found[f"corolla_request_failure_total|busy|{MODEL}"] == 1
    assert found[f"vllm:num_requests_waiting|{MODEL}"] == 0


async def test_without_the_broker_its_figures_are_unknown(serve: Serve) -> None:
    async with serve(redis_url="redis://127.0.0.1:1/0") as gateway:
        found = await scrape(gateway)
    assert found["corolla_broker_up"] == 0
    unknown = ("corolla_jobs_waiting", "corolla_jobs_unfinished", "corolla_sessions", "corolla_dead_letters")
    assert [name for name in unknown if math.isnan(found[name])] == [*unknown]
    assert math.isnan(found[f"corolla_workers|{MODEL}"])


async def test_a_silent_broker_does_not_keep_the_answer_back(
    gateway: Served, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a gateway that would wait for it for ever elsewhere
    monkeypatch.setattr("shared.link.ANSWER_TIMEOUT_S", 1000.0)
    await _until(gateway, "corolla_broker_up", 1)
    valkey.send(signal.SIGSTOP)
    try:
        assert (await scrape(gateway))["corolla_broker_up"] == 0
    finally:
        valkey.send(signal.SIGCONT)
    await _until(gateway, "corolla_broker_up", 1)


async def test_a_port_of_their_own_needs_no_key_and_has_nothing_else(serve: Serve) -> None:
    # given a gateway whose callers need keys
    bind = f"127.0.0.1:{free_port()}"
    async with serve(auth="on", key_pepper="p" * 32, metrics_bind=bind) as gateway:
        async with httpx.AsyncClient(base_url=f"http://{bind}") as prometheus:
            # then Prometheus needs none
            answer = await prometheus.get("/metrics")
            assert (answer.status_code, "corolla_broker_up 1.0" in answer.text) == (200, True)
            for path in ("/", "/health/live", "/v1/models", "/metrics/x"):
                assert (await prometheus.get(path)).status_code == 404
        with pytest.raises(InvalidStatus):
            await connect(f"ws://{bind}/api/v2/generate")
        # and clients get no metrics, whoever they are
        assert (await gateway.client.get("/metrics")).status_code == 401
        assert (await gateway.client.get("/health/live")).status_code == 200


async def test_where_metrics_have_a_port_clients_do_not_get_them(serve: Serve) -> None:
    async with serve(metrics_bind=f"127.0.0.1:{free_port()}") as gateway:
        assert (await gateway.client.get("/metrics")).status_code == 404


async def test_open_websockets_are_counted(gateway: Served) -> None:
    async with connect(gateway.ws_url):
        await _until(gateway, "corolla_websockets", 1)
    await _until(gateway, "corolla_websockets", 0)


async def _until(gateway: Served, name: str, value: float) -> None:
    async with asyncio.timeout(60):
        while (await scrape(gateway)).get(name) != value:
            await asyncio.sleep(0.01)
