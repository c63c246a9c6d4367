"""The OpenAI API: models, completions and dialogues."""

import time
from collections.abc import Callable

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway.bodies import json_fields, read_body
from gateway.callers import caller_of
from gateway.errors import json_answer
from gateway.gateway import Gateway
from gateway.openai_calls import Call, chat_call, completion_call, require_one
from gateway.openai_desk import choose_id, job_ids, limits_of, refusal, require_worker, user_of
from gateway.openai_echoes import read_prompts
from gateway.openai_objects import ModelCard, ModelList
from gateway.openai_prompts import Limits, find_model
from gateway.openai_render import Frame, Note, Stream, Whole, frame_of
from gateway.openai_runs import Source, known, running, streaming
from gateway.openai_types import ChatRequest, CompletionRequest, unknown_fields
from gateway.openai_words import failure_event, failure_of
from gateway.orders import Order, Orders
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
        return json_answer(ModelList([self._card(model, model.key) for model in public]))

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

    def _card(self, model: Model, name: str) -> ModelCard:
        return ModelCard(name, self._started, model.key, model.chat.max_session_length)

    async def _answer(
        self, request: Request, parse: Parse, kind: type[ChatRequest | CompletionRequest]
    ) -> Response | EventStream:
        gateway = self._gateway
        try:
            body = await read_body(request, gateway.settings.max_body_bytes)
            fields = json_fields(body)
            self._tell(unknown_fields(fields, kind))
            call = parse(fields, limits_of(gateway))
            job = await choose_id(gateway, request, body, len(call.requests))
            call = call.seeded(int(job[:16], 16) >> 1)
            await require_worker(gateway, call.requests[0].model)
            asked = _Asked(call, job, request)
            told = await unless_gone(request, read_prompts(gateway.jobs, call, asked.orders))
            echoes = tuple(each.echo for each in told)
            frame = frame_of(call, ("chatcmpl-" if call.chat else "cmpl-") + job, int(time.time()), echoes)
            if call.silent:
                source = known([each.ending(call.choices) for each in told])
            else:
                source = running(gateway.jobs, asked.jobs(frame))
            if call.stream:
                resumed = 0 if asked.resumable else None
                chunks = streaming(source, Stream(frame, len(call.requests), call.include_usage, resumed))
                return EventStream(chunks, refusal, lambda error: failure_event(failure_of(error)))
            return json_answer(await unless_gone(request, _whole(source, Whole(frame, len(call.requests)))))
        except CorollaError as error:
            return refusal(error)

    def _tell(self, unknown: list[str]) -> None:
        for name in unknown:
            if name not in self._told and len(self._told) < MAX_TOLD:
                self._told.add(name)
                log.info("unknown field", field=ascii(name)[:MAX_TOLD_CHARS])


async def _whole(source: Source, whole: Whole) -> object:
    async with source as events:
        async for prompt, entry in events:
            whole.feed(prompt, entry)
    return whole.content()


class _Asked:
    """A call, and what its request's headers say. resumable: the stream may be gone on with elsewhere.

    Raises CorollaError(INVALID) where it may not.
    """

    def __init__(self, call: Call, job: str, request: Request) -> None:
        self.call = call
        self.orders = Orders(caller_of(request), user_of(call.user), len(call.requests))
        self.resumable = call.stream and request.headers.get("x-resumable", "").lower() == "true"
        if self.resumable:
            require_one(call, "A resumable stream")
        self._ids = job_ids(job, len(call.requests))
        # Whoever has such a key may come back for the answer as well.
        self._lasting = self.resumable or "idempotency-key" in request.headers

    def jobs(self, frame: Frame) -> list[Order]:
        """Those that answer; the first has the id that the client sees, and the note."""
        notes = [msgspec.msgpack.encode(self._note(frame))] + [b""] * (len(self._ids) - 1)
        return [
            self.orders.make(id, each, self._lasting, note)
            for id, each, note in zip(self._ids, self.call.requests, notes, strict=True)
        ]

    def _note(self, frame: Frame) -> Note:
        return Note(msgspec.structs.replace(frame, echoes=()), len(self._ids), self.call.include_usage)
