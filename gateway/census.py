"""GET /metrics: what this gateway counts, and what is in the broker, which is the same at every gateway."""

import asyncio
import math
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from shared.broker import Broker
from shared.catalog import Model
from shared.errors import BrokerUnavailable

# Whoever asks must hear in time that the broker is silent: Prometheus takes no answer after 5 s (prometheus.yml).
ASK_S = 2.0


class Census:
    """Asks the broker whenever it is asked itself. Without the broker its figures are NaN: unknown."""

    def __init__(self, broker: Broker, models: Mapping[str, Model], registry: CollectorRegistry) -> None:
        self._broker = broker
        self._models = models
        self._registry = registry
        self.up = Gauge("corolla_broker_up", "Whether the broker answers this gateway.", registry=registry)
        self.workers = Gauge("corolla_workers", "Live workers that serve it.", ("model_name",), registry=registry)
        self.unfinished = Gauge("corolla_jobs_unfinished", "Jobs in the broker that have not ended.", registry=registry)
        self.waiting = Gauge("corolla_jobs_waiting", "Jobs in the broker that no worker has.", registry=registry)
        self.sessions = Gauge("corolla_sessions", "Open inference sessions.", registry=registry)
        self.dead = Gauge(
            "corolla_dead_letters",
            "Jobs given up because every worker that tried them failed; the last 1000 at most.",
            registry=registry,
        )

    async def scrape(self, _: Request) -> Response:
        """GET /metrics."""
        await self._ask()
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    async def _ask(self) -> None:
        gauges = (self.unfinished, self.waiting, self.sessions, self.dead)
        try:
            async with asyncio.timeout(ASK_S):
                live: Mapping[str, float] = await self._broker.live_workers(self._models)
                counts: tuple[float, ...] = await self._broker.census(self._models)
            self.up.set(1)
        except (BrokerUnavailable, TimeoutError):
            live, counts = dict.fromkeys(self._models, math.nan), (math.nan,) * len(gauges)
            self.up.set(0)
        for model, number in live.items():
            self.workers.labels(model).set(number)
        for gauge, count in zip(gauges, counts, strict=True):
            gauge.set(count)
