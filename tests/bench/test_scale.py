"""The benchmarks of scale and cost: what they measure, and what counts as good."""

import dataclasses
import json
import subprocess
import sys
import time

import pytest

from tests.bench.cpu import cpu_s
from tests.bench.meter import Work
from tests.bench.readers import Answer
from tests.bench.scale import Report, Run, measure, running
from tests.bench.slowed import slowed
from tests.waiting import until
from worker.oracle_backend import text

RUN = Run(1, 1, 8, tokens_per_s=100, pace=0.6, gateway_us=100, gateway_percent=1, cores=0.1, wrong=0)
TWICE = dataclasses.replace(RUN, workers=2, gateways=2, streams=16, tokens_per_s=181, pace=0.6)


@pytest.mark.e2e
def test_streams_are_whole_and_measured() -> None:
    with running(1, 2, 4) as stack:
        run = measure(stack, 4, 6)
    assert (run.workers, run.gateways, run.streams, run.wrong) == (1, 2, 4, 0)
    # The model gives each stream a token every 50 ms; what was late may come faster for a moment.
    assert 0 < run.tokens_per_s < 1.5 * 4 * 20
    assert run.pace == pytest.approx(run.tokens_per_s / 80)
    assert 0 < run.gateway_percent < 100 * run.cores


def test_a_slowed_process_gets_its_share_and_goes_on_afterwards() -> None:
    # given one that would use a whole core
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with slowed(busy.pid, 0.1):
            began, used_s = time.monotonic(), cpu_s(busy.pid)
            until(lambda: time.monotonic() > began + 1)
            # then it has a tenth, or less where others keep it from that
            assert (cpu_s(busy.pid) - used_s) / (time.monotonic() - began) < 0.2
        used_s = cpu_s(busy.pid)
        until(lambda: cpu_s(busy.pid) > used_s + 0.1)
    finally:
        busy.kill()
        busy.wait()


def test_what_counts_as_good() -> None:
    report = Report((RUN, TWICE), (RUN, TWICE))
    assert (report.worker_gain, report.gateway_gain, report.good) == (1.81, 1.81, True)
    assert "two workers: 1.81x the tokens/s of one (at least 1.8)" in report.as_table()
    assert json.loads(report.as_json())["gateway_gain"] == 1.81
    slow, wrong = dataclasses.replace(TWICE, tokens_per_s=179.0), dataclasses.replace(TWICE, wrong=1)
    for worse in (slow, wrong):
        assert not Report((RUN, worse), (RUN, TWICE)).good
        assert not Report((RUN, TWICE), (RUN, worse)).good
    # One that was not full might have carried the streams of both.
    assert not Report((RUN, TWICE), (dataclasses.replace(RUN, pace=0.95), TWICE)).good


def stream(pieces: list[str], end: str = "[DONE]") -> bytes:
    lines = [f"data: {json.dumps({'choices': [{'text': piece}]})}\n\n" for piece in pieces]
    return "".join(["HTTP/1.1 200 OK\r\n\r\n", *lines, f"data: {end}\n\n"]).encode()


def test_what_is_a_whole_answer() -> None:
    pieces = [text(7, 0, 2), text(7, 2, 1)]
    assert Answer(7, stream(pieces)).is_whole(3)
    assert not Answer(7, stream(pieces)).is_whole(4)
    assert not Answer(7, stream([*pieces, pieces[1]])).is_whole(3)
    assert not Answer(7, stream(pieces, "{}")).is_whole(3)
    assert not Answer(7, b"HTTP/1.1 503 No\r\n\r\n").is_whole(3)
    assert not Answer(7, b"").is_whole(3)


def test_shares_of_work() -> None:
    work = Work(10, 20, 30, 40, 50)
    assert (work - Work(1, 2, 3, 4, 5)).over(9) == Work(1, 2, 3, 4, 5)
    assert work.less(Work(1, 2, 3, 4, 5), 10) == Work(0, 0, 0, 0, 0)
