"""Spans: what they say of themselves, and that there are none unless they are asked for."""

import builtins
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import SpanProcessor

from shared import traces
from shared.settings import SettingError

NOWHERE = "http://127.0.0.1:1/v1/traces"


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Nothing is sent, which would take its time to fail.
    monkeypatch.setattr("opentelemetry.sdk.trace.export.BatchSpanProcessor", lambda _: SpanProcessor())
    traces.configure(NOWHERE, "test")
    yield
    traces.close()


def test_nobody_wants_spans() -> None:
    traces.configure("", "test")
    with traces.span("a", "SERVER", {"x": 1}, current=True) as span:
        span.note({"y": 2})
        span.fail("why")
    assert (span.traceparent, span.ids) == ("", {})


@pytest.mark.usefixtures("wanted")
def test_a_span_is_below_the_current_one_or_the_one_it_is_told() -> None:
    with traces.span("a", "SERVER", {}, current=True) as a, traces.span("b", "PRODUCER", {"x": None}) as b:
        assert a.traceparent[:36] == b.traceparent[:36]
        assert a.traceparent != b.traceparent
        assert b.ids == {"trace": a.traceparent[3:35]}
    with traces.span("c", "CONSUMER", {}, b.traceparent) as c, traces.span("d", "SERVER", {}) as d:
        assert c.ids == b.ids
        assert d.ids != c.ids  # as c is not the current one


@pytest.mark.usefixtures("wanted")
@pytest.mark.parametrize("parent", ["nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_parent_that_is_none_begins_a_new_trace(parent: str) -> None:
    with traces.span("a", "SERVER", {}, parent) as span:
        assert span.traceparent[:3] == "00-"
        assert span.ids["trace"] != "0" * 32


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name=name)
        return real(name, *arguments)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingError, match="COROLLA_TRACE_URL is set, but a package of the group `tracing`"):
        traces.configure(NOWHERE, "test")


def test_a_collector_that_says_nothing_is_not_waited_for() -> None:
    others = {*threading.enumerate()}
    # given one that takes connections, and more spans than go at once
    with socket.create_server(("127.0.0.1", 0)) as hole:
        traces.configure(f"http://127.0.0.1:{hole.getsockname()[1]}/v1/traces", "test")
        for _ in range(1500):
            with traces.span("a", "SERVER", {}):
                pass
        # when
        traces.close()
        # then its thread still tries to send them: each attempt takes longer than is left for all
        assert {*threading.enumerate()} - others
