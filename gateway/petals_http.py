"""The Petals Chat API over HTTP: generate, and sessions that any gateway serves.

Every outcome is status 200 with {"ok": true, ...} or {"ok": false, "traceback": ...}; but who is to wait is told so by
429, where it is because of the client's own requests, or 503 as well.
"""

import contextlib
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from gateway.bodies import BodyRefused, read_fields
from gateway.callers import caller_of
from gateway.errors import json_answer, petals_answer
from gateway.gateway import Gateway, new_id
from gateway.orders import Caller, Order
from gateway.patience import BRIEF_S, patiently
from gateway.petals_fields import Fields, http_request, identifier, parse_call, text
from gateway.petals_words import not_public, session_not_found
from gateway.petals_ws import session_length
from gateway.presence import unless_gone
from shared.catalog import Model
from shared.errors import CorollaError, InvalidField
from shared.messages import JobFailed, LogEntry
from shared.records import SessionInfo

DEFAULT_SESSION_LENGTH = 1024

Content = dict[str, object]
Handler = Callable[[Fields, Caller], Awaitable[Content]]


class PetalsHttp:
    """The endpoints of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._rules = gateway.rules

    async def generate(self, request: Request) -> Response:
        """POST /api/v1/generate: {"ok": true, "outputs": new text}. Who disconnects ends the job."""
        return await self._answer(request, self._generate)

    async def open_session(self, request: Request) -> Response:
        """GET or POST /api/v1/open_inference_session."""
        return await self._answer(request, self._open)

    async def close_session(self, request: Request) -> Response:
        """GET or POST /api/v1/close_inference_session; a session that is gone is closed."""
        return await self._answer(request, self._close)

    async def _answer(self, request: Request, handler: Handler) -> Response:
        try:
            fields = await read_fields(request, self._gateway.settings.max_body_bytes)
            return json_answer(await unless_gone(request, handler(fields, caller_of(request))))
        except CorollaError as error:
            answer = petals_answer(error)
            if isinstance(error, BodyRefused):
                answer.headers["connection"] = "close"
            return answer

    async def _generate(self, fields: Fields, caller: Caller) -> Content:
        call = parse_call(fields, self._rules.max_prompt_chars, self._rules.draw_seed)
        session = text(fields, "session_id")
        named = text(fields, "model")
        if session is None:
            model = self._public(named)
        else:
            model = self._public((await self._find_session(session, caller)).model)
            if named is not None and self._rules.catalog.find(named) is not model:
                raise InvalidField("model", f"The session is one of {model.key}, not of {named[:200]}")
        order = Order(new_id(), http_request(call, model.key), session, caller=caller)
        return {"ok": True, "outputs": await self._outputs(order)}

    async def _outputs(self, order: Order) -> str:
        texts: list[str] = []
        async with self._gateway.jobs.run(order) as run, contextlib.aclosing(run.events()) as events:
            async for event in events:
                if not isinstance(event, LogEntry):
                    continue
                texts += [token.text for token in event.tokens]
                if isinstance(event.ending, JobFailed):
                    raise CorollaError(event.ending.code, event.ending.message)
        return "".join(texts)

    async def _open(self, fields: Fields, caller: Caller) -> Content:
        gateway, model = self._gateway, self._public(text(fields, "model"))
        longest = model.chat.max_session_length
        max_length = session_length(fields, model) or min(DEFAULT_SESSION_LENGTH, longest)
        session, idle_ms = new_id(), gateway.settings.session_idle_s * 1000
        asked = (session, model.key, max_length, idle_ms, gateway.settings.max_sessions, caller.account)
        await patiently(lambda: gateway.broker.open_session(*asked), BRIEF_S)
        return {"ok": True, "session_id": session}

    async def _close(self, fields: Fields, caller: Caller) -> Content:
        session = text(fields, "session_id")
        if session is None:
            raise InvalidField("session_id", "`session_id` is required")
        if _is_id(session):
            await patiently(lambda: self._gateway.broker.close_session(session, caller.account), BRIEF_S)
        return {"ok": True, "session_id": session}

    async def _find_session(self, session: str, caller: Caller) -> SessionInfo:
        found = None
        if _is_id(session):
            found = await patiently(lambda: self._gateway.broker.session(session, caller.account), BRIEF_S)
        if found is None:
            raise session_not_found(session)
        return found

    def _public(self, name: str | None) -> Model:
        model = self._rules.catalog.find(name)
        if not model.public_api:
            raise not_public(model.key)
        return model


def _is_id(session: str) -> bool:
    with contextlib.suppress(InvalidField):
        return identifier({"session_id": session}, "session_id") is not None
    return False
