"""What a worker's /metrics says after known events."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared.errors import Code, CorollaError
from shared.messages import FinishReason, JobFinished
from shared.sampling import SamplingParams
from tests.valkey import Valkey, free_port
from tests.worker.desk import MODEL, desk
from worker.metrics import Metrics
from worker.oracle_backend import OracleBackend, OracleSession

pytestmark = pytest.mark.anyio


def scrape(port: int) -> dict[str, float]:
    """Every sample, by name and label values."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
    return {
        sample.name + "".join(f"|{value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def served(metrics: Metrics) -> dict[str, float]:
    port = free_port()
    metrics.serve("127.0.0.1", port)
    return scrape(port)


def test_all_that_may_happen_to_a_model_is_counted_from_the_start() -> None:
    # An event that came with a new series would be no increase, and so unseen by an alert.
    found = served(Metrics([MODEL]))
    for code in Code:
        assert found[f"corolla_worker_step_failures_total|{code}|{MODEL}"] == 0
    for why in (*FinishReason, *Code):
        assert found[f"corolla_worker_jobs_ended_total|{MODEL}|{why}"] == 0
    for name in ("vllm:request_queue_time_seconds_count", "corolla_worker_step_seconds_count"):
        assert found[f"{name}|{MODEL}"] == 0
    assert found[f"corolla_worker_tokens_total|{MODEL}"] == 0


async def test_steps_tokens_and_endings_are_counted(valkey: Valkey) -> None:
    async with desk(valkey, OracleBackend(0)) as at:
        assert (await at.ask(max_new_tokens=5))[1] == JobFinished(FinishReason.LENGTH, 2, 5)
        found = served(at.metrics)
    assert found[f"corolla_worker_step_seconds_count|{MODEL}"] == 5
    assert found[f"corolla_worker_tokens_total|{MODEL}"] == 5
    assert found[f"corolla_worker_jobs_ended_total|{MODEL}|length"] == 1
    assert (found["corolla_worker_slots"], found["corolla_worker_jobs"]) == (2, 0)


async def test_failed_steps_are_counted(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise CorollaError(Code.SWARM, "no")

    monkeypatch.setattr(OracleSession, "step", fail)
    monkeypatch.setattr("worker.run.RETRY_DELAYS_S", {Code.SWARM: (0.0, 0.0)})
    async with desk(valkey, OracleBackend(0)) as at:
        await at.ask(max_new_tokens=5)
        found = served(at.metrics)
    assert found[f"corolla_worker_step_failures_total|swarm|{MODEL}"] == 3
    assert found[f"corolla_worker_jobs_ended_total|{MODEL}|swarm"] == 1


async def test_a_lost_lease_is_counted(valkey: Valkey) -> None:
    async with desk(valkey, OracleBackend(50)) as at:
        job = await at.start(max_new_tokens=50, sampling=SamplingParams())
        await at.tokens(job, 1)
        valkey.client.hset(f"{{p}}:job:{job}", "epoch", "9:other")
        await at.at_rest()
        assert served(at.metrics)["corolla_worker_lost_leases_total"] == 1


async def test_a_lost_lease_that_a_beat_tells_of_is_counted_once(valkey: Valkey) -> None:
    async with desk(valkey, OracleBackend(50)) as at:
        await at.start(max_new_tokens=50, sampling=SamplingParams())
        # when a beat hears of it, before the next token is refused
        for _ in range(2):
            at.engine.lose(at.engine.leases())
        await at.at_rest()
        assert served(at.metrics)["corolla_worker_lost_leases_total"] == 1
