"""The OpenAI API's batches: many requests in one file, answered when there is time."""

import contextlib
import re
import time

import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway.batch_records import ENDPOINTS, Batch
from gateway.bodies import json_fields, read_body
from gateway.errors import json_answer
from gateway.gateway import Gateway, new_id
from gateway.openai_desk import refusal
from gateway.openai_files import find_file, owner_of, page
from gateway.openai_types import BatchQuery, BatchRequest, read
from gateway.patience import BRIEF_S, patiently
from shared.errors import BrokerUnavailable, Code, CorollaError, InvalidField

MAX_HOURS = 168
HOUR_S = 3600

_WINDOW = re.compile(r"([1-9]\d{0,2})h", re.ASCII)

log = structlog.get_logger()


class BatchesApi:
    """The endpoints of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._batches = gateway.batches

    async def create(self, request: Request) -> Response:
        """POST /v1/batches."""
        try:
            fields = json_fields(await read_body(request, self._gateway.settings.max_body_bytes))
            return json_answer((await self._create(read(fields, BatchRequest), owner_of(request))).shown())
        except CorollaError as error:
            return refusal(error)

    async def list(self, request: Request) -> Response:
        """GET /v1/batches."""
        try:
            asked, owner = read(dict(request.query_params), BatchQuery), owner_of(request)
            found = await patiently(lambda: self._batches.list(owner, asked.limit + 1, asked.after), BRIEF_S)
        except CorollaError as error:
            return refusal(error)
        return json_answer(page([batch.shown() for batch in found], asked.limit))

    async def show(self, request: Request) -> Response:
        """GET /v1/batches/{id}: this also lines up again a batch that was lost from the line."""
        try:
            batch = await self._find(request)
        except CorollaError as error:
            return refusal(error)
        if not batch.ended:
            # Gateway or broker may have died between its record and its place in the line; then RQ does not know it.
            with contextlib.suppress(BrokerUnavailable):
                await self._line_up(batch)
        return json_answer(batch.shown())

    async def cancel(self, request: Request) -> Response:
        """POST /v1/batches/{id}/cancel: what was answered before is kept."""
        try:
            batch = await self._find(request)
            if batch.ended and batch.status != "cancelled":
                raise CorollaError(Code.INVALID, f"The batch has {batch.status} and cannot be cancelled")
            changed = await patiently(lambda: self._batches.change(batch.id, _cancelled), BRIEF_S)
            return json_answer((changed or batch).shown())
        except CorollaError as error:
            return refusal(error)

    async def _create(self, asked: BatchRequest, owner: str) -> Batch:
        if asked.endpoint not in ENDPOINTS:
            raise InvalidField("endpoint", f"`endpoint` must be one of {', '.join(ENDPOINTS)}")
        window = _WINDOW.fullmatch(asked.completion_window)
        hours = int(window[1]) if window else 0
        if not 0 < hours <= MAX_HOURS:
            raise InvalidField("completion_window", f"`completion_window` must be 1h to {MAX_HOURS}h, such as 24h")
        file = await find_file(self._gateway, asked.input_file_id, owner)
        if file.purpose != "batch":
            raise InvalidField("input_file_id", "`input_file_id` must name a file with the purpose batch")
        now = int(time.time())
        batch = Batch(
            id=f"batch_{new_id()}",
            owner=owner,
            endpoint=asked.endpoint,
            input_file_id=file.id,
            completion_window=asked.completion_window,
            created_at=now,
            expires_at=now + hours * HOUR_S,
            metadata=asked.metadata,
        )
        if not await patiently(lambda: self._batches.put(owner, batch.id, batch), BRIEF_S):
            raise CorollaError(Code.TENANT_BUSY, "There are too many batches of the last thirty days")
        await patiently(lambda: self._line_up(batch), BRIEF_S)
        log.info("batch accepted", batch=batch.id, file=file.id)
        return batch

    async def _line_up(self, batch: Batch) -> None:
        """Let it be answered, or be told that it is late. Raises BrokerUnavailable."""
        await self._gateway.queue.add(batch.id, max(batch.expires_at - int(time.time()), 0))

    async def _find(self, request: Request) -> Batch:
        id = request.path_params["id"]
        batch = await patiently(lambda: self._batches.get(id), BRIEF_S)
        if batch is None or batch.owner != owner_of(request):
            raise CorollaError(Code.SESSION_NOT_FOUND, f"No such batch: {ascii(id)[1:-1][:64]}")
        return batch


def _cancelled(batch: Batch) -> Batch:
    """Nobody has begun with it, so it ends at once; else whoever is at it ends it."""
    return batch.turned("cancelled" if batch.status == "validating" else "cancelling")
