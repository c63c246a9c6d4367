"""One trace from a client through gateway, job and worker, as a collector sees it; and log lines that join up."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.deploy.test_catalogs import CATALOGS
from tests.services import Gateway, Worker
from tests.valkey import Valkey
from tests.waiting import until

pytestmark = pytest.mark.e2e

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: dict[tuple[str, str], Span] = {}  # by service and name
        taken = self.spans

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    service = {each.key: each.value.string_value for each in resource.resource.attributes}
                    for scope in resource.scope_spans:
                        taken.update({(service["service.name"], span.name): span for span in scope.spans})
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing of it."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> "Collector":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def facts(span: Span) -> dict[str, Any]:
    """Its attributes."""
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def test_a_trace_from_the_client_to_the_worker_and_back(collector: Collector, valkey: Valkey, tmp_path: Path) -> None:
    # given
    catalog = CATALOGS / "oracle.toml"
    worker = Worker(tmp_path / "worker.log", valkey.url, catalog, trace_url=collector.url)
    gateway = Gateway(tmp_path / "gateway.log", valkey.url, catalog, trace_url=collector.url)
    try:
        worker.start()
        gateway.start()
        until(gateway.is_ready)
        # when
        headers = {"traceparent": CLIENT, "x-request-id": "r-1"}
        form = {"inputs": "a secret", "max_new_tokens": "3"}
        answer = httpx.post(f"{gateway.url}/api/v1/generate", data=form, headers=headers)
        status = gateway.terminate(), worker.terminate()
    finally:
        gateway.kill()
        worker.kill()
    # then each span is below the one before
    assert (answer.json()["ok"], status) == (True, (0, 0))
    names = [("corolla-gateway", "POST"), ("corolla-gateway", "job"), ("corolla-worker", "decode")]
    assert collector.spans.keys() == set(names)
    spans = [collector.spans[name] for name in names]
    assert {span.trace_id.hex() for span in spans} == {CLIENT[3:35]}
    assert [span.parent_span_id.hex() for span in spans] == [CLIENT[36:52], *(each.span_id.hex() for each in spans[:2])]
    assert answer.headers["traceresponse"] == f"00-{CLIENT[3:35]}-{spans[0].span_id.hex()}-01"
    # and they and the logs name the same request and job, but not what was asked
    request, job, decode = map(facts, spans)
    assert request == {
        "http.request.method": "POST",
        "url.path": "/api/v1/generate",
        "http.response.status_code": 200,
        "corolla.request": "r-1",
    }
    id = job["corolla.job"]
    assert job == {
        "corolla.job": id, "corolla.priority": "interactive", "corolla.outcome": "length", "corolla.tokens": 3
    }  # fmt: skip
    assert (decode["corolla.job"], decode["corolla.outcome"]) == (id, "length")
    (line,) = [line for line in gateway.lines() if line["event"] == "job"]
    assert (line["job"], line["request"], line["trace"]) == (id, "r-1", CLIENT[3:35])
    lines = [line for line in worker.lines() if "job" in line]
    assert [line["event"] for line in lines] == ["job_started", "job_ended"]
    assert {(line["job"], line["trace"]) for line in lines} == {(id, CLIENT[3:35])}
    assert "secret" not in str(collector.spans) + gateway.log.read_text() + worker.log.read_text()


def test_a_collector_that_is_away_harms_nobody(valkey: Valkey, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gateway.log", valkey.url, CATALOGS / "oracle.toml", trace_url="http://127.0.0.1:1/v1")
    try:
        gateway.start()
        assert httpx.get(f"{gateway.url}/api/v1/models").status_code == 200
        assert gateway.terminate() == 0
    finally:
        gateway.kill()
