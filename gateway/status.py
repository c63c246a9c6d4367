"""What runs: health for load balancers, and the catalogue with its live workers."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import json_answer
from gateway.gateway import Gateway
from shared.catalog import Chat, Model
from shared.errors import BrokerUnavailable


class Status:
    """The endpoints of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._catalog = gateway.catalog
        self._broker = gateway.broker
        self._max_prompt_chars = gateway.settings.max_prompt_chars

    async def live(self, _: Request) -> Response:
        """GET /health/live: the process answers."""
        return json_answer({"ok": True})

    async def ready(self, _: Request) -> Response:
        """GET /health/ready: 200 where the broker answers and a worker serves the default model; else 503, and what
        is missing."""
        model = self._catalog.default.key
        try:
            workers = (await self._broker.live_workers([model]))[model]
        except BrokerUnavailable:
            return json_answer({"ok": False, "missing": ["broker"]}, 503)
        if not workers:
            return json_answer({"ok": False, "missing": [f"live worker for {model}"]}, 503)
        return json_answer({"ok": True, "model": model, "live_workers": workers})

    async def models(self, _: Request) -> Response:
        """GET /api/v1/models: the catalogue as the page needs it. Without the broker, no worker counts as live."""
        try:
            live = await self._broker.live_workers(self._catalog.models)
        except BrokerUnavailable:
            live = dict.fromkeys(self._catalog.models, 0)
        families = [
            {"name": family.name, "models": [_model(model, live[model.key]) for model in family.models]}
            for family in self._catalog.families
        ]
        bounds = {"max_prompt_chars": self._max_prompt_chars}
        return json_answer({"default": self._catalog.default.key, **bounds, "families": families})


def _model(model: Model, live_workers: int) -> dict[str, object]:
    return {
        "key": model.key,
        "aliases": model.aliases,
        "backend": {"repository": model.repository, "adapter": model.adapter, "public_api": model.public_api},
        "frontend": {"name": model.name, "model_card": model.model_card, "license": model.license},
        "chat": _chat(model.chat),
        "live_workers": live_workers,
    }


def _chat(chat: Chat) -> dict[str, object]:
    """The settings of a dialogue's client, who writes its prompts; what is None is left out, as for "use none"."""
    params = msgspec.structs.asdict(chat.generation_params)
    given = {name: value for name, value in params.items() if value is not None}
    settings = {**msgspec.structs.asdict(chat), "generation_params": given}
    return {name: value for name, value in settings.items() if name not in ("template", "wrap_completions")}
