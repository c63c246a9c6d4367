"""The OpenAI API's jobs by the ids that clients saw: their state, their end before its time, their stream once more."""

import re
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from gateway.bodies import json_fields, read_body
from gateway.callers import caller_of
from gateway.errors import failure_answer, json_answer
from gateway.gateway import Gateway
from gateway.openai_desk import endings, job_ids, refusal
from gateway.openai_objects import JobState
from gateway.openai_render import Note, Stream, read_note
from gateway.openai_runs import running, streaming
from gateway.openai_types import CancelRequest, read
from gateway.openai_words import failure_event, failure_for, failure_of
from gateway.orders import Order
from gateway.patience import BRIEF_S, patiently
from gateway.sse import EventStream
from gateway.waits import JOBS_PER_S
from shared.errors import CorollaError, InvalidField
from shared.messages import Ending, FinishReason, JobFailed, JobFinished
from shared.records import Position

_ID = re.compile(r"(?:chat)?cmpl-([0-9a-f]{32})")
_EVENT = re.compile(r"\d{1,15}", re.ASCII)


class NoJob(Exception):
    """There is no such job, or not any more."""

    def answer(self) -> Response:
        """What a client is told."""
        return failure_answer(failure_for(404, "The job does not exist, or not any more"))


class JobsApi:
    """The endpoints of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def state(self, request: Request) -> Response:
        """GET /v1/jobs/{id}."""
        return await self._answer(request, request.path_params["id"], cancel=False)

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/jobs/{id}: end the answer as it stands."""
        return await self._answer(request, request.path_params["id"], cancel=True)

    async def cancel(self, request: Request) -> Response:
        """POST /v1/cancel: likewise, by the id in the body."""
        try:
            body = await read_body(request, self._gateway.settings.max_body_bytes)
            asked = read(json_fields(body), CancelRequest)
        except CorollaError as error:
            return refusal(error)
        return await self._answer(request, asked.id, cancel=True)

    async def stream(self, request: Request) -> Response | EventStream:
        """GET /v1/jobs/{id}/stream: the events after Last-Event-ID, whichever gateway sent those before."""
        try:
            job, note = await self._find(request, request.path_params["id"])
            if note.prompts > 1:
                raise InvalidField("id", "A stream of several prompts cannot be resumed")
            events = Stream(note.frame, 1, note.usage, _last_event(request))
        except NoJob as error:
            return error.answer()
        except CorollaError as error:
            return refusal(error)
        chunks = streaming(running(self._gateway.jobs, [Order(job, None, resumable=True)]), events)
        return EventStream(chunks, refusal, lambda error: failure_event(failure_of(error)))

    async def _answer(self, request: Request, id: str, cancel: bool) -> Response:
        try:
            job, note = await self._find(request, id)
            jobs = job_ids(job, note.prompts)
            if cancel:
                for each in jobs:
                    await self._gateway.broker.cancel(each)
            return json_answer(await self._state(jobs, note))
        except NoJob as error:
            return error.answer()
        except CorollaError as error:
            return refusal(error)

    async def _find(self, request: Request, id: str) -> tuple[str, Note]:
        """The first job of the caller's answer, and what was noted about it. Raises NoJob, CorollaError."""
        match = _ID.fullmatch(id)
        if match is None:
            raise NoJob
        job, account = match[1], caller_of(request).account
        raw = await patiently(lambda: self._gateway.broker.note(job, account), BRIEF_S)
        note = read_note(raw) if raw else None
        if note is None or note.frame.id != id:
            raise NoJob
        return job, note

    async def _state(self, jobs: Sequence[str], note: Note) -> JobState:
        broker, name = self._gateway.broker, self._gateway.hub.gateway
        found = await broker.positions(name, jobs)
        positions = list(found.values())
        status, ahead = _status(positions), max(position.ahead for position in positions)
        if status == "done":
            status = _outcome(await endings(self._gateway, found))
        return JobState(
            id=note.frame.id,
            status=status,
            created=note.frame.created,
            model=note.frame.model,
            tokens=sum(max(position.last - (position.state == "done"), 0) for position in positions),
            position=ahead or None,
            estimated_wait_s=-(-ahead // JOBS_PER_S) if ahead else None,
        )


def _status(positions: Sequence[Position]) -> str:
    """Of all jobs of an answer together."""
    states = {position.state for position in positions}
    if states <= {"done", "gone"}:
        return "done"
    return "in_progress" if "running" in states or "done" in states else "queued"


def _outcome(endings: Sequence[Ending]) -> str:
    """Of all jobs of an answer together, none of which goes on."""
    if any(isinstance(ending, JobFailed) for ending in endings):
        return "failed"
    reasons = [ending.reason for ending in endings if isinstance(ending, JobFinished)]
    return "cancelled" if FinishReason.CANCELLED in reasons else "completed"


def _last_event(request: Request) -> int:
    given = request.headers.get("last-event-id", "").strip()
    if given and not _EVENT.fullmatch(given):
        raise InvalidField("Last-Event-ID", "`Last-Event-ID` must be the id of an event of this stream")
    return int(given or 0)
