"""What a gateway counts, for Prometheus.

The names vllm:* are those of vLLM's server, so that dashboards made for it show this one as well. Each gateway counts
the jobs of its own clients; a sum over all gateways is the whole.
"""

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.errors import Code
from shared.messages import FinishReason, JobFinished, LogEntry

_MODEL = ("model_name",)
_FIRST_TOKEN_S = (0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 20, 40, 80)
_BETWEEN_TOKENS_S = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5)
_WHOLE_S = (0.1, 0.3, 1, 2, 5, 10, 20, 40, 60, 120, 300, 600)


class Metrics:
    """The instruments, and where they are registered. models: all that jobs may be for."""

    def __init__(self, models: Iterable[str]) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self.waiting = Gauge("vllm:num_requests_waiting", "Requests that have no token yet.", _MODEL, registry=registry)
        self.running = Gauge("vllm:num_requests_running", "Requests with tokens, under way.", _MODEL, registry=registry)
        self.prompt_tokens = Counter(
            "vllm:prompt_tokens", "Tokens of the prompts of complete answers.", _MODEL, registry=registry
        )
        self.generation_tokens = Counter(
            "vllm:generation_tokens", "Tokens that were given to clients.", _MODEL, registry=registry
        )
        self.success = Counter(
            "vllm:request_success", "Complete answers.", (*_MODEL, "finished_reason"), registry=registry
        )
        self.failure = Counter("corolla_request_failure", "Answers that failed.", (*_MODEL, "code"), registry=registry)
        self.first_token = Histogram(
            "vllm:time_to_first_token_seconds",
            "From a request to its first token.",
            _MODEL,
            registry=registry,
            buckets=_FIRST_TOKEN_S,
        )
        self.between_tokens = Histogram(
            "vllm:inter_token_latency_seconds",
            "From one token to the next, a mean for those that came together.",
            _MODEL,
            registry=registry,
            buckets=_BETWEEN_TOKENS_S,
        )
        self.whole = Histogram(
            "vllm:e2e_request_latency_seconds",
            "From a request to the end of its answer.",
            _MODEL,
            registry=registry,
            buckets=_WHOLE_S,
        )
        self.resubmitted = Counter(
            "corolla_jobs_resubmitted", "Jobs that the broker had lost, submitted again.", registry=registry
        )
        self.websockets = Gauge("corolla_websockets", "WebSockets that are open.", registry=registry)
        self.requests = Counter(
            "corolla_http_requests", "HTTP requests, by the status of the answer.", ("status",), registry=registry
        )
        for model in models:
            self._expect(model)

    def _expect(self, model: str) -> None:
        """Let all counts begin at 0. One that came with its first event would show no increase by it."""
        for metric in (self.waiting, self.running, self.prompt_tokens, self.generation_tokens):
            metric.labels(model)
        for times in (self.first_token, self.between_tokens, self.whole):
            times.labels(model)
        for reason in FinishReason:
            self.success.labels(model, reason)
        for code in Code:
            self.failure.labels(model, code)


class Course:
    """What one job adds to the metrics, from its submission on."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._began = time.monotonic()
        self._at = self._began  # of the last tokens
        self._stage = metrics.waiting.labels(model)
        self._stage.inc()
        self._tokens = metrics.generation_tokens.labels(model)
        self._between = metrics.between_tokens.labels(model)
        self._any = False

    def take(self, entry: LogEntry) -> None:
        """Tokens, or the ending, came."""
        now, count = time.monotonic(), len(entry.tokens)
        if count:
            self._tokens.inc(count)
            if self._any:
                self._between.observe((now - self._at) / count)
            else:
                self._begin(now)
            self._at = now
        if isinstance(entry.ending, JobFinished):
            self._finish(entry.ending, now)
        elif entry.ending:
            self.fail(entry.ending.code)

    def fail(self, code: str) -> None:
        """There will be no answer, or no more of it."""
        self._metrics.failure.labels(self._model, code).inc()

    def leave(self) -> None:
        """Nothing more comes."""
        self._stage.dec()

    def _begin(self, now: float) -> None:
        self._any = True
        self._metrics.first_token.labels(self._model).observe(now - self._began)
        self._stage.dec()
        self._stage = self._metrics.running.labels(self._model)
        self._stage.inc()

    def _finish(self, ending: JobFinished, now: float) -> None:
        metrics, model = self._metrics, self._model
        metrics.prompt_tokens.labels(model).inc(ending.prompt_tokens)
        metrics.success.labels(model, ending.reason).inc()
        metrics.whole.labels(model).observe(now - self._began)
