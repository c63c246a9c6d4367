"""Spans of requests, jobs and decoding for a collector, where one is set; for the whole process, as logs are.

A span's place is told to other processes as a traceparent: https://www.w3.org/TR/trace-context/. The packages are those
of the group `tracing`, loaded only where spans are wanted; OpenTelemetry's own variables (OTEL_...) count as well.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from shared.settings import SettingError

EXPORT_TIMEOUT_S = 3.0
# What an end in order leaves for it, at most.
CLOSE_TIMEOUT_S = 2.0

Field = str | int | float | bool
Kind = Literal["SERVER", "PRODUCER", "CONSUMER"]


class Span:
    """One span under way, or nothing where no spans are wanted."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        """By which others put their spans below this one; empty where there is none."""
        if self._span is None:
            return ""
        where = self._span.get_span_context()
        return f"00-{where.trace_id:032x}-{where.span_id:016x}-{where.trace_flags:02x}"

    @property
    def ids(self) -> dict[str, str]:
        """What log lines say of it."""
        return {"trace": self.traceparent[3:35]} if self._span else {}

    def note(self, fields: Mapping[str, Field | None]) -> None:
        """Say more of it; None is left out."""
        if self._span is not None:
            self._span.set_attributes({name: value for name, value in fields.items() if value is not None})

    def fail(self, why: str) -> None:
        """It is an error."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, why))


class _Setup:
    """What `configure` has made."""

    tracer: Any = None
    provider: Any = None


_setup = _Setup()


def configure(url: str, service: str) -> None:
    """Send spans of this service to the collector at `url`, by OTLP over HTTP; to nobody where it is empty.

    Raises SettingError where the packages for it are missing.
    """
    if not url:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        text = f"COROLLA_TRACE_URL is set, but a package of the group `tracing` is missing: {error.name}"
        raise SettingError(text) from None
    provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url, timeout=EXPORT_TIMEOUT_S)))
    _setup.provider, _setup.tracer = provider, provider.get_tracer("corolla")


def close() -> None:
    """Send what waits. Blocks for CLOSE_TIMEOUT_S at most; what is not sent then is lost."""
    provider = _setup.provider
    _setup.provider = _setup.tracer = None
    if provider:
        # Its own limits are for each attempt, and where the collector takes all and says nothing there are many.
        ending = threading.Thread(target=provider.shutdown, daemon=True)
        ending.start()
        ending.join(CLOSE_TIMEOUT_S)


@contextlib.contextmanager
def span(
    name: str, kind: Kind, fields: Mapping[str, Field | None], parent: str = "", current: bool = False
) -> Iterator[Span]:
    """A span for as long as the block takes. Its parent is the one of that traceparent, else the current one.

    current: spans in tasks and calls below are its children; then the block must be left in the task that entered it.
    """
    if _setup.tracer is None:
        yield Span()
        return
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    above = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    begun = _setup.tracer.start_span(name, above, trace.SpanKind[kind])
    own = Span(begun)
    own.note(fields)
    inside = trace.use_span(begun, record_exception=False) if current else contextlib.nullcontext()
    try:
        with inside:
            yield own
    finally:
        begun.end()
