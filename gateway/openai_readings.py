"""The OpenAI API's calls that only read a text: embeddings, and vLLM's tokenize and detokenize."""

import base64
import struct
from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response

from gateway.bodies import json_fields, read_body
from gateway.callers import caller_of
from gateway.errors import json_answer
from gateway.gateway import Gateway, new_id
from gateway.openai_desk import job_ids, limits_of, refusal, require_worker, user_of
from gateway.openai_objects import Detokenized, Embedding, EmbeddingList, ReadingUsage, Tokens
from gateway.openai_prompts import Limits
from gateway.openai_runs import Read, reading
from gateway.openai_texts import Reading, detokenize_call, embedding_call, tokenize_call
from gateway.orders import Orders
from gateway.presence import unless_gone
from shared.errors import CorollaError

Render = Callable[[Reading, Sequence[Read]], object]


class Readings:
    """The endpoints of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def tokenize(self, request: Request) -> Response:
        """POST /v1/tokenize."""
        return await self._answer(request, tokenize_call, self._tokens)

    async def detokenize(self, request: Request) -> Response:
        """POST /v1/detokenize."""
        return await self._answer(request, detokenize_call, _text)

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings."""
        return await self._answer(request, embedding_call, _embeddings)

    async def _answer(
        self, request: Request, parse: Callable[[dict[str, object], Limits], Reading], render: Render
    ) -> Response:
        try:
            fields = json_fields(await read_body(request, self._gateway.settings.max_body_bytes))
            asked = parse(fields, limits_of(self._gateway))
            await require_worker(self._gateway, asked.requests[0].model)
            orders = Orders(caller_of(request), user_of(asked.user), len(asked.requests))
            ids = job_ids(new_id(), len(asked.requests))
            jobs = [orders.make(id, each) for id, each in zip(ids, asked.requests, strict=True)]
            found = await unless_gone(request, reading(self._gateway.jobs, jobs))
            return json_answer(render(asked, found))
        except CorollaError as error:
            return refusal(error)

    def _tokens(self, asked: Reading, found: Sequence[Read]) -> Tokens:
        ((tokens, _),) = found
        ids = [token.id for token in tokens]
        model = self._gateway.catalog.models[asked.requests[0].model]
        return Tokens(ids, len(ids), model.chat.max_session_length)


def _text(_: Reading, found: Sequence[Read]) -> Detokenized:
    ((tokens, _ending),) = found
    return Detokenized("".join(token.text for token in tokens))


def _embeddings(asked: Reading, found: Sequence[Read]) -> EmbeddingList:
    count = sum(ending.prompt_tokens for _, ending in found)
    rows = [Embedding(index, _vector(ending.embedding, asked.base64)) for index, (_, ending) in enumerate(found)]
    return EmbeddingList(rows, asked.model, ReadingUsage(count, count))


def _vector(raw: bytes, as_base64: bool) -> list[float] | str:
    if as_base64:
        return base64.b64encode(raw).decode()
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))
