"""What a worker counts, for Prometheus, on a port of its own."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from shared.errors import Code
from shared.messages import FinishReason

_MODEL = ("model_name",)
_QUEUE_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 20, 40, 80, 160, 320)
_STEP_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 30, 60)


class Metrics:
    """The instruments, and where they are registered. models: all that jobs may be for."""

    def __init__(self, models: Iterable[str]) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self.slots = Gauge("corolla_worker_slots", "Jobs that it can run at the same time.", registry=registry)
        self.jobs = Gauge("corolla_worker_jobs", "Jobs that run.", registry=registry)
        self.queue = Histogram(
            "vllm:request_queue_time_seconds",
            "From a job's submission to its first worker.",
            _MODEL,
            registry=registry,
            buckets=_QUEUE_S,
        )
        self.steps = Histogram(
            "corolla_worker_step_seconds",
            "Time of a step through the swarm and the head, for all rows of a job.",
            _MODEL,
            registry=registry,
            buckets=_STEP_S,
        )
        self.tokens = Counter("corolla_worker_tokens", "Tokens that were made.", _MODEL, registry=registry)
        self.failures = Counter(
            "corolla_worker_step_failures", "Steps that failed.", (*_MODEL, "code"), registry=registry
        )
        self.lost_leases = Counter(
            "corolla_worker_lost_leases", "Jobs whose events the broker refused: others run them.", registry=registry
        )
        self.ended = Counter("corolla_worker_jobs_ended", "Jobs that ended here.", (*_MODEL, "why"), registry=registry)
        for model in models:
            self._expect(model)

    def _expect(self, model: str) -> None:
        """Let all counts begin at 0. One that came with its first event would show no increase by it."""
        for metric in (self.queue, self.steps, self.tokens):
            metric.labels(model)
        for code in Code:
            self.failures.labels(model, code)
        for why in (*FinishReason, *Code):
            self.ended.labels(model, why)

    @property
    def tokens_made(self) -> float:
        """Tokens of all models."""
        samples = (sample for metric in self.tokens.collect() for sample in metric.samples)
        return sum(sample.value for sample in samples if sample.name.endswith("_total"))

    def serve(self, host: str, port: int) -> None:
        """GET /metrics on this address, in threads of its own. Raises OSError."""
        start_http_server(port, host, self.registry)
