"""GET /api/v1/status: what lives, how busy it is, and which blocks of each model the swarm holds."""

import asyncio
import math
import time

from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import json_answer
from gateway.gateway import Gateway
from shared.catalog import Model
from shared.errors import BrokerUnavailable
from shared.overview import LiveWorker, Overview
from shared.reports import Coverage

# However many people look, the broker is asked only so often, also where it does not answer.
FRESH_S = 1.0


class SwarmStatus:
    """The endpoint of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._catalog = gateway.catalog
        self._broker = gateway.broker
        self._asking = asyncio.Lock()
        self._known: Overview | None = None
        self._asked_at = -math.inf

    async def status(self, _: Request) -> Response:
        """GET /api/v1/status; 503 where the broker does not answer."""
        overview = await self._overview()
        if overview is None:
            return json_answer({"ok": False, "missing": ["broker"]}, 503)
        models = [_model(model, overview) for model in self._catalog.models.values()]
        workers = [_worker(worker) for worker in overview.workers]
        return json_answer(
            {
                "ok": True,
                "waiting": overview.waiting,
                "tokens_per_s": round(sum(worker.report.tokens_per_s for worker in overview.workers), 2),
                "gateways": [{"name": name} for name in overview.gateways],
                "workers": workers,
                "models": models,
            },
            headers={"cache-control": "no-store"},
        )

    async def _overview(self) -> Overview | None:
        """What the broker told lately; None where it did not answer then."""
        async with self._asking:
            if time.monotonic() - self._asked_at > FRESH_S:
                self._known = await self._ask()
                self._asked_at = time.monotonic()
            return self._known

    async def _ask(self) -> Overview | None:
        try:
            return await self._broker.overview(self._catalog.models)
        except BrokerUnavailable:
            return None


def _worker(worker: LiveWorker) -> dict[str, object]:
    slots = worker.who.slots
    return {
        "name": worker.who.worker,
        "models": worker.who.models,
        "slots": slots,
        "running": slots - worker.free,
        "waiting": worker.waiting,
        "tokens_per_s": worker.report.tokens_per_s,
    }


def _model(model: Model, overview: Overview) -> dict[str, object]:
    """blocks: how many servers hold each; empty where the model has none, or no worker knows yet."""
    serving = [worker for worker in overview.workers if model.key in worker.who.models]
    views = [worker.report.coverage[model.key] for worker in serving if model.key in worker.report.coverage]
    newest = min(views, key=lambda view: view.age_s, default=Coverage((), 0.0))
    return {
        "key": model.key,
        "name": model.name,
        "live_workers": len(serving),
        "waiting": overview.waiting_by_model[model.key],
        "blocks": newest.servers,
        "blocks_age_s": newest.age_s,
    }
