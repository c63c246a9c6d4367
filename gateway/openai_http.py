"""The OpenAI API: models, completions and dialogues."""

import time
from collections.abc import AsyncGenerator, Callable

import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway.bodies import BodyRefused, json_fields, read_body
from gateway.errors import failure_answer, json_answer
from gateway.gateway import Gateway, new_id
from gateway.openai_calls import Call, Limits, chat_call, completion_call, find_model
from gateway.openai_render import Frame, Stream, Whole, frame_of
from gateway.openai_runs import running
from gateway.openai_types import ChatRequest, CompletionRequest, unknown_fields
from gateway.openai_words import failure_event, failure_for, failure_of, no_worker
from gateway.orders import Order
from gateway.patience import BRIEF_S, patiently
from gateway.presence import unless_gone
from gateway.sse import EventStream
from shared.catalog import Model
from shared.errors import CorollaError

# Unknown fields are logged once each, but not for ever.
MAX_TOLD = 256
MAX_TOLD_CHARS = 64

Parse = Callable[[dict[str, object], Limits], Call]

log = structlog.get_logger()


class OpenAi:
    """The endpoints of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._started = int(time.time())
        self._told: set[str] = set()

    async def models(self, _: Request) -> Response:
        """GET /v1/models: those that are for everybody."""
        public = [model for model in self._gateway.catalog.models.values() if model.public_api]
        return json_answer({"object": "list", "data": [self._card(model, model.key) for model in public]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{name}: one model, by its key or an alias."""
        name = request.path_params["name"]
        try:
            return json_answer(self._card(find_model(self._gateway.catalog, name), name))
        except CorollaError as error:
            return refusal(error)

    async def completions(self, request: Request) -> Response | EventStream:
        """POST /v1/completions."""
        return await self._answer(request, completion_call, CompletionRequest)

    async def chat(self, request: Request) -> Response | EventStream:
        """POST /v1/chat/completions."""
        return await self._answer(request, chat_call, ChatRequest)

    def _card(self, model: Model, name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "corolla",
            "root": model.key,
            "max_model_len": model.chat.max_session_length,
        }

    async def _answer(
        self, request: Request, parse: Parse, kind: type[ChatRequest | CompletionRequest]
    ) -> Response | EventStream:
        try:
            fields = json_fields(await read_body(request, self._gateway.settings.max_body_bytes))
            self._tell(unknown_fields(fields, kind))
            job = new_id()
            call = parse(fields, self._limits(job))
            orders = _orders(call, job, request)
            await self._require_worker(orders[0])
            frame = frame_of(call, ("chatcmpl-" if call.chat else "cmpl-") + job, int(time.time()), _echoes(call))
            if call.stream:
                stream = Stream(frame, len(orders), call.include_usage)
                return EventStream(
                    self._chunks(orders, stream), refusal, lambda error: failure_event(failure_of(error))
                )
            return json_answer(await unless_gone(request, self._whole(orders, frame)))
        except CorollaError as error:
            return refusal(error)

    def _limits(self, job: str) -> Limits:
        return Limits(self._gateway.catalog, self._gateway.settings.max_prompt_chars, int(job[:16], 16) >> 1)

    async def _require_worker(self, order: Order) -> None:
        assert order.request is not None
        model = order.request.model
        live = await patiently(lambda: self._gateway.broker.live_workers([model]), BRIEF_S)
        if not live[model]:
            raise no_worker(model)

    async def _whole(self, orders: list[Order], frame: Frame) -> object:
        whole = Whole(frame, len(orders))
        async with running(self._gateway.jobs, orders) as events:
            async for prompt, entry in events:
                whole.feed(prompt, entry)
        return whole.content()

    async def _chunks(self, orders: list[Order], stream: Stream) -> AsyncGenerator[bytes, None]:
        async with running(self._gateway.jobs, orders) as events:
            async for prompt, entry in events:
                yield stream.feed(prompt, entry)
        yield stream.finish()

    def _tell(self, unknown: list[str]) -> None:
        for name in unknown:
            if name not in self._told and len(self._told) < MAX_TOLD:
                self._told.add(name)
                log.info("unknown field", field=ascii(name)[:MAX_TOLD_CHARS])


def refusal(error: CorollaError) -> Response:
    """The answer for an error before anything was sent."""
    if isinstance(error, BodyRefused):
        answer = failure_answer(failure_for(error.status, error.message))
        answer.headers["connection"] = "close"
        return answer
    return failure_answer(failure_of(error))


def _orders(call: Call, job: str, request: Request) -> list[Order]:
    """The jobs of a call; the first has the id that the client sees."""
    client = request.client.host if request.client else "-"
    return [Order(job if number == 0 else new_id(), each, tenant=client) for number, each in enumerate(call.requests)]


def _echoes(call: Call) -> tuple[str, ...]:
    return tuple(each if isinstance(each, str) else "" for each in call.echoes)
