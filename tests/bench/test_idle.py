"""The benchmark of idle sockets runs."""

import dataclasses
import json
import subprocess
import sys
import time

import pytest

from tests.bench import idle
from tests.bench.idle import PING, PONG, Idle, Report, count_alive
from tests.bench.stream import MASK
from tests.services import ROOT

GOOD = Report(sockets=9, seconds=1, alive=9, kib=50, commands=1, alone=1, cpu=0)


@pytest.mark.e2e
def test_all_sockets_live_and_are_pinged() -> None:
    command = [sys.executable, "-m", "tests.bench.idle", "--sockets", "20", "--seconds", "1", "--json"]
    ran = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    report = Report(**json.loads(ran.stdout))
    assert (report.sockets, report.alive) == (20, 20)
    assert report.kib > 0


@pytest.mark.anyio
async def test_a_socket_is_alive_that_was_pinged_lately_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "AT_LAST_S", 0.1)
    # given a socket with a fresh ping, one with an old one, and one that says nothing, over a gateway that answers
    fresh, old, silent = sockets = [Idle() for _ in range(3)]
    sent: list[bytes] = []
    for socket in sockets:
        socket.opened.set()
        monkeypatch.setattr(socket, "write", sent.append)
    fresh.data_received(bytes([PING, 2]) + b"hi")
    old.pinged_at, silent.pinged_at = time.monotonic() - 60, time.monotonic()
    monkeypatch.setattr(fresh, "write", lambda _: fresh.data_received(bytes([PONG, 0])))
    # then only the first is alive
    assert sent == [bytes([PONG, 0x82]) + MASK + b"hi"]
    assert await count_alive([fresh, old], 20) == 1
    assert await count_alive([silent], 20) == 0


@pytest.mark.parametrize("worse", [{"alive": 8}, {"kib": 50.1}, {"commands": 1.1}])
def test_what_counts_as_good(worse: dict[str, float]) -> None:
    assert GOOD.good
    assert not dataclasses.replace(GOOD, **worse).good  # type: ignore[arg-type]
