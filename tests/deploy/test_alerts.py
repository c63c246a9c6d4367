"""Which alerts fire, by Prometheus' own evaluation, for what gateways and workers count in bad and in good times."""

from pathlib import Path

import pytest

from tests.deploy import promtool
from tests.services import ROOT

RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
MODEL = "corolla/demo"
PAGE, WARN = {"severity": "page"}, {"severity": "warn"}

# Samples every 15 s, for half an hour.
ALWAYS = "x120"
REST = "0+0" + ALWAYS
UP = 'up{job="gateway",instance="g1"}'
BROKER = 'corolla_broker_up{instance="g1"}'
WORKERS = f'corolla_workers{{instance="g1",model_name="{MODEL}"}}'
WAITING = 'corolla_jobs_waiting{instance="g1"}'
DEAD = 'corolla_dead_letters{instance="g1"}'
GIVEN = f'vllm:request_success_total{{instance="g1",model_name="{MODEL}",finished_reason="stop"}}'
LOST = 'corolla_worker_lost_leases_total{instance="w1"}'
STEPS = f'corolla_worker_step_seconds_count{{instance="w1",model_name="{MODEL}"}}'
STEPS_FAILED = f'corolla_worker_step_failures_total{{instance="w1",model_name="{MODEL}",code="swarm"}}'


def failed(code: str) -> str:
    return f'corolla_request_failure_total{{instance="g1",model_name="{MODEL}",code="{code}"}}'


GOOD = {
    UP: "1+0" + ALWAYS,
    BROKER: "1+0" + ALWAYS,
    WORKERS: "2+0" + ALWAYS,
    WAITING: "3+0" + ALWAYS,
    DEAD: "7+0" + ALWAYS,
    GIVEN: "0+30" + ALWAYS,
    LOST: REST,
    STEPS: "0+300" + ALWAYS,
    STEPS_FAILED: REST,
    **{failed(code): REST for code in ("swarm", "poison", "busy", "tenant_busy")},
}


def alert(name: str, severity: dict[str, str], **labels: str) -> dict[str, str]:
    return {"alertname": name, **severity, **labels}


NO_GATEWAY = alert("NoGateway", PAGE)
BROKER_AWAY = alert("BrokerAway", PAGE)
NO_WORKER = alert("NoWorker", PAGE, model_name=MODEL)
GROWING = alert("QueueGrowing", WARN)
DEAD_LETTERS = alert("DeadLetters", WARN)
FENCED = alert("FencedAppends", WARN)
SWARM = alert("SwarmFailing", WARN, model_name=MODEL)
ERRORS = alert("ErrorRate", PAGE, model_name=MODEL)


@pytest.mark.parametrize(
    ("series", "fires"),
    [
        pytest.param(GOOD, {"1m": [], "10m": [], "30m": []}, id="good"),
        pytest.param({UP: REST}, {"15s": [], "1m": [NO_GATEWAY]}, id="no gateway answers"),
        pytest.param({}, {"1m": [NO_GATEWAY]}, id="no gateway is known"),
        pytest.param({**GOOD, 'up{job="gateway",instance="g2"}': REST}, {"5m": []}, id="one gateway of two answers"),
        pytest.param(
            {UP: GOOD[UP], BROKER: REST, WORKERS: "NaN+0" + ALWAYS, WAITING: "NaN+0" + ALWAYS, DEAD: "NaN+0" + ALWAYS},
            {"15s": [], "1m": [BROKER_AWAY], "10m": [BROKER_AWAY]},
            id="no broker",
        ),
        pytest.param(GOOD | {WORKERS: "1 0+0" + ALWAYS}, {"1m": [], "2m": [NO_WORKER]}, id="no worker"),
        pytest.param(GOOD | {WAITING: "0+5" + ALWAYS}, {"5m": [], "8m": [GROWING]}, id="a queue grows"),
        pytest.param(
            GOOD | {WAITING: "0+5x30 NaN 160+5x30"}, {"7m45s": [GROWING], "8m": [GROWING]}, id="a queue grows in a blip"
        ),
        pytest.param(GOOD | {WAITING: "500-1" + ALWAYS}, {"10m": []}, id="a queue shrinks"),
        pytest.param(
            GOOD | {DEAD: "7x8 8+0" + ALWAYS}, {"1m": [], "5m": [DEAD_LETTERS], "15m": []}, id="a dead letter"
        ),
        pytest.param(
            GOOD | {DEAD: "7x8 8x8 NaN 8+0" + ALWAYS}, {"4m30s": [DEAD_LETTERS]}, id="a dead letter before a blip"
        ),
        pytest.param(GOOD | {DEAD: "7x8 0+0" + ALWAYS}, {"5m": []}, id="dead letters are dropped"),
        pytest.param(
            GOOD | {failed("poison"): "0x8 1+0" + ALWAYS},
            {"5m": [DEAD_LETTERS], "15m": []},
            id="one more than are kept",
        ),
        pytest.param(GOOD | {LOST: "0+1x10 10+0" + ALWAYS}, {"1m": [], "5m": [FENCED], "30m": []}, id="fenced appends"),
        pytest.param(
            GOOD | {STEPS: REST, STEPS_FAILED: "0x4 0+1" + ALWAYS}, {"5m": [], "8m": [SWARM]}, id="all steps fail"
        ),
        pytest.param(GOOD | {STEPS_FAILED: "0+16" + ALWAYS}, {"10m": [SWARM]}, id="a step of 19 fails"),
        pytest.param(GOOD | {STEPS_FAILED: "0+15" + ALWAYS}, {"10m": []}, id="a step of 21 fails"),
        pytest.param(
            GOOD | {GIVEN: REST, failed("swarm"): "0x4 0+1" + ALWAYS}, {"5m": [], "8m": [ERRORS]}, id="all answers fail"
        ),
        pytest.param(GOOD | {failed("busy"): "0+2" + ALWAYS}, {"10m": [ERRORS]}, id="an answer of 16 fails"),
        pytest.param(GOOD | {failed("busy"): "0+1" + ALWAYS}, {"10m": []}, id="an answer of 31 fails"),
        pytest.param(GOOD | {failed("tenant_busy"): "0+99" + ALWAYS}, {"10m": []}, id="clients ask too much"),
    ],
)
def test_what_fires(tmp_path: Path, series: dict[str, str], fires: dict[str, list[dict[str, str]]]) -> None:
    promtool.try_alerts(RULES, tmp_path, series, fires)
