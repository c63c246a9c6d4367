"""The load balancer: what it allows is more than gateways do, and what it says is what they would say."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from gateway import settings as gateway_settings
from gateway.errors import plain_failure
from gateway.openai_files import FORM_BYTES
from shared.settings import rules
from tests.services import ROOT

NGINX = ROOT / "deploy" / "nginx"
CONF = (NGINX / "nginx.conf").read_text()
DEFAULTS = {name: rule.default for name, rule in rules(gateway_settings.Settings).items()}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Where start.sh puts its files; a program there stands in for nginx."""
    nginx = tmp_path / "nginx"
    nginx.write_text('#!/bin/sh\necho "$@"\n')
    nginx.chmod(0o755)
    return tmp_path


def start(made: Path, **environ: str) -> str:
    """Run start.sh; how it called nginx."""
    done = subprocess.run(
        ["sh", NGINX / "start.sh"],
        check=True,
        env={"PATH": f"{made}:{os.environ['PATH']}", "MADE": str(made), **environ},
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_what_it_includes_is_written_when_it_starts(made: Path) -> None:
    assert start(made) == f"-c {NGINX}/nginx.conf -g daemon off;"
    assert {Path(name).name for name in re.findall(r"include /tmp/(.*);", CONF)} == {
        file.name for file in made.glob("*.conf")
    }


@pytest.mark.parametrize(
    ("deadline", "ping", "expected_s"),
    [("", "", 360), ("900", "", 960), ("2", "25.5", 86), ("", "3600", 3660)],
)
def test_it_waits_longer_than_gateways_do(made: Path, deadline: str, ping: str, expected_s: int) -> None:
    start(made, COROLLA_DEADLINE_S=deadline, COROLLA_PING_S=ping)
    waits = f"proxy_read_timeout {expected_s}s;\nproxy_send_timeout {expected_s}s;\n"
    assert (made / "waits.conf").read_text() == waits
    silent_s = max(float(deadline or DEFAULTS["COROLLA_DEADLINE_S"]), float(ping or DEFAULTS["COROLLA_PING_S"]))
    assert expected_s >= silent_s + 60


@pytest.mark.parametrize("file_bytes", ["", "2048", str(1 << 40)])
@pytest.mark.parametrize("body_bytes", ["", "2048"])
def test_what_is_too_large_reaches_a_gateway(made: Path, body_bytes: str, file_bytes: str) -> None:
    start(made, COROLLA_MAX_BODY_BYTES=body_bytes, COROLLA_MAX_FILE_BYTES=file_bytes)
    for name, given in (("body", body_bytes), ("file", file_bytes)):
        bytes_ = int(given or DEFAULTS[f"COROLLA_MAX_{name.upper()}_BYTES"])
        assert (made / f"{name}.conf").read_text() == f"client_max_body_size {2 * bytes_ + (1 << 20)};\n"
    assert FORM_BYTES < 1 << 20


def test_proxies_that_it_trusts(made: Path) -> None:
    start(made, TRUSTED_PROXIES="10.0.0.0/8 172.16.0.1")
    assert (made / "proxies.conf").read_text() == "set_real_ip_from 10.0.0.0/8;\nset_real_ip_from 172.16.0.1;\n"
    assert (made / "trusted.conf").read_text() == "10.0.0.0/8 1;\n172.16.0.1 1;\n"


def test_it_passes_on_as_it_comes_and_never_repeats_a_post() -> None:
    assert "proxy_buffering off;" in CONF
    assert re.findall(r"proxy_next_upstream (.*);", CONF) == ["error timeout"]


@pytest.mark.parametrize(("pattern", "path"), [("default", "/api/v1/generate"), ('"~^/v1/"', "/v1/models")])
def test_where_no_gateway_answers_it_says_so_as_a_gateway_would(pattern: str, path: str) -> None:
    (said,) = re.findall(rf"^ +{re.escape(pattern)} '(\{{.*\}})';$", CONF, re.MULTILINE)
    answer = plain_failure(path, 503, "RuntimeError", "No gateway answers, please try again later")
    assert json.loads(said) == json.loads(bytes(answer.body))


def test_it_has_a_file_and_a_socket_for_every_connection() -> None:
    (files,) = re.findall(r"^worker_rlimit_nofile (\d+);", CONF, re.MULTILINE)
    (connections,) = re.findall(r"worker_connections (\d+);", CONF)
    assert int(files) == 2 * int(connections)
