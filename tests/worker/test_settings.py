"""Wrong settings stop the start with one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.settings import SettingError, read, rules
from tests.services import ROOT
from worker.settings import Settings


def test_defaults() -> None:
    settings = read(Settings, {})
    assert (settings.slots, settings.peers, settings.device, settings.dtype) == (32, (), "auto", "auto")
    assert settings.metrics_bind is None
    assert (settings.step_timeout_s, settings.lease_ms, settings.beat_s) == (60, 8000, 2)


def test_every_variable_is_read() -> None:
    environ = {
        "COROLLA_REDIS_URL": "redis://elsewhere:1/2",
        "COROLLA_CATALOG": "my.toml",
        "COROLLA_LOG_LEVEL": "debug",
        "COROLLA_TRACE_URL": "http://127.0.0.1:4318/v1/traces",
        "COROLLA_SLOTS": "8",
        "COROLLA_PEERS": "/ip4/1.2.3.4/tcp/1/p2p/Qm1, /ip4/1.2.3.5/tcp/1/p2p/Qm2",
        "COROLLA_DEVICE": "cuda:1",
        "COROLLA_DTYPE": "bfloat16",
        "COROLLA_WORKER_NAME": "left-1.example",
        "COROLLA_METRICS_BIND": "127.0.0.1:9101",
        "COROLLA_STEP_TIMEOUT_S": "30",
        "COROLLA_KEPT_SESSIONS": "5",
        "COROLLA_KEPT_IDLE_S": "6",
        "COROLLA_LEASE_MS": "4000",
        "COROLLA_BEAT_S": "1.5",
        "COROLLA_REAP_S": "0.5",
    }
    assert set(environ) == set(rules(Settings))
    assert read(Settings, environ) == Settings(
        redis_url="redis://elsewhere:1/2",
        catalog="my.toml",
        log_level="debug",
        trace_url="http://127.0.0.1:4318/v1/traces",
        slots=8,
        peers=("/ip4/1.2.3.4/tcp/1/p2p/Qm1", "/ip4/1.2.3.5/tcp/1/p2p/Qm2"),
        device="cuda:1",
        dtype="bfloat16",
        worker_name="left-1.example",
        metrics_bind=("127.0.0.1", 9101),
        step_timeout_s=30,
        kept_sessions=5,
        kept_idle_s=6,
        lease_ms=4000,
        beat_s=1.5,
        reap_s=0.5,
    )


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("COROLLA_SLOTS", "0", "a whole number from 1 to 1024"),
        ("COROLLA_DEVICE", "tpu", "auto, cpu, cuda or cuda:NUMBER"),
        ("COROLLA_DTYPE", "int8", "one of auto, float32, bfloat16, float16"),
        ("COROLLA_WORKER_NAME", "a b", "letters, digits, . _ -"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingError) as raised:
        read(Settings, {name: value})
    assert str(raised.value) == f"{name} is {value!r}, but must be {allowed}"


def test_a_worker_must_beat_twice_a_lease() -> None:
    with pytest.raises(SettingError) as raised:
        read(Settings, {"COROLLA_LEASE_MS": "3000"})
    assert str(raised.value) == "COROLLA_BEAT_S is 2, but must be at most 1.5, half of COROLLA_LEASE_MS"


def start(**settings: str) -> tuple[int, str]:
    """Exit status and standard error of a worker that cannot start."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("COROLLA_")} | settings
    command = [sys.executable, "-m", "worker"]
    ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30, check=False)
    return ended.returncode, ended.stderr


def test_a_wrong_setting_is_one_line() -> None:
    words = "worker: COROLLA_SLOTS is 'many', but must be a whole number from 1 to 1024\n"
    assert start(COROLLA_SLOTS="many") == (2, words)


def test_a_missing_catalogue_is_one_line(tmp_path: Path) -> None:
    path = str(tmp_path / "none.toml")
    words = f"worker: the catalogue {path} cannot be read: No such file or directory\n"
    assert start(COROLLA_CATALOG=path) == (2, words)
