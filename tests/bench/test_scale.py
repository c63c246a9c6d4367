"""The benchmarks of scale and cost: what they measure, and what counts as good."""

import dataclasses
import json

import pytest

from tests.bench.meter import Work
from tests.bench.readers import Answer
from tests.bench.scale import Report, Run, measure, running
from worker.oracle_backend import text

RUN = Run(1, 1, 8, tokens_per_s=100, pace=1, gateway_us=100, gateway_percent=1, cores=0.1, wrong=0)
TWICE = dataclasses.replace(RUN, workers=2, gateways=2, streams=16, tokens_per_s=181, pace=0.905)
ALONE = dataclasses.replace(RUN, streams=16, tokens_per_s=120, pace=0.6)


@pytest.mark.e2e
def test_streams_are_whole_and_measured() -> None:
    with running(1, 2, 4) as stack:
        run = measure(stack, 4, 6)
    assert (run.workers, run.gateways, run.streams, run.wrong) == (1, 2, 4, 0)
    # The model gives each stream a token every 50 ms; what was late may come faster for a moment.
    assert 0 < run.tokens_per_s < 1.5 * 4 * 20
    assert run.pace == pytest.approx(run.tokens_per_s / 80)
    assert 0 < run.gateway_percent < 100 * run.cores


def test_what_counts_as_good() -> None:
    report = Report((RUN, TWICE), (RUN, TWICE), (ALONE,))
    assert (report.worker_gain, report.gateway_gain, report.good) == (1.81, 1.81, True)
    assert "two workers: 1.81x the tokens/s of one (at least 1.8)" in report.as_table()
    assert "one gateway with the streams of two: 0.60x the pace of the model" in report.as_table()
    assert json.loads(report.as_json())["gateway_gain"] == 1.81
    slow, wrong = dataclasses.replace(TWICE, tokens_per_s=179.0), dataclasses.replace(TWICE, wrong=1)
    for worse in (slow, wrong):
        assert not Report((RUN, worse), (RUN, TWICE), (ALONE,)).good
        assert not Report((RUN, TWICE), (RUN, worse), (ALONE,)).good


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
