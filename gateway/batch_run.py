"""A batch from beginning to end, as a job of an RQ worker that may die and begin again at any point.

The input is answered in pieces. What a piece gave is kept as a file, so whoever goes on with the batch skips it; the
requests of a piece that was under way have the same jobs again. So every request has one line of results.
"""

import asyncio
import contextlib
import io
import itertools
import os
import signal
import time
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import structlog
from rq import Retry
from rq.job import Job
from starlette.types import ASGIApp

from gateway.app import batch_app
from gateway.batch_lines import Line, Response, check, count, read_line, read_result, result
from gateway.batch_records import Batch, File, Status, derived_id
from gateway.gateway import Gateway, build_for_batches
from gateway.loopback import Answer, post
from gateway.openai_objects import Counts, LineError
from gateway.patience import patiently
from gateway.settings import Settings
from shared import catalog, logs, traces
from shared.settings import read

PIECE = 200
WATCH_S = 1.0
# An answer that says neither when to come back nor what is wrong.
RETRY_S = 2.0
BEGIN_TIMEOUT_S = 60.0
# Enough for any number of restarts: giving up is what the batch's own time is for.
RESTARTS = 1000

log = structlog.get_logger()


def run(id: str) -> Retry | None:
    """The job of RQ: answer the batch of that id. Stopped by SIGTERM it asks to be started again."""
    settings = read(Settings)
    logs.configure(settings.log_level)
    traces.configure(settings.trace_url, "corolla-batches")
    gateway = build_for_batches(settings, catalog.load(settings.catalog))
    return None if asyncio.run(_run(gateway, id)) else Retry(max=RESTARTS)


def give_up(job: Job, *_: Any) -> None:
    """RQ's failure callback: where it does not try again, the batch has failed, and whoever asks is told."""
    if not job.retries_left:
        settings = read(Settings)
        gateway = build_for_batches(settings, catalog.load(settings.catalog))
        asyncio.run(_fail(gateway, job.id))


async def _run(gateway: Gateway, id: str) -> bool:
    """Whether the batch has ended; else it was interrupted."""
    app = batch_app(gateway)
    working = asyncio.ensure_future(_answer(gateway, app, id))
    orphaned = asyncio.create_task(_orphaned(working))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
    async with app.router.lifespan_context(app):
        await asyncio.wait({working})
    orphaned.cancel()
    if working.cancelled():
        log.info("batch interrupted", batch=id)
        return False
    working.result()
    return True


async def _orphaned(working: "asyncio.Future[None]") -> None:
    """Interrupt the work where the RQ worker that wanted it was killed: it will be given to another one."""
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110  nothing tells of it on every system
        await asyncio.sleep(WATCH_S)
    working.cancel()


async def _answer(gateway: Gateway, app: ASGIApp, id: str) -> None:
    batch = await patiently(lambda: gateway.batches.get(id), BEGIN_TIMEOUT_S)
    if batch is None or batch.ended:
        return
    log.info("batch begun", batch=id)
    work = _Work(gateway, app, batch)
    if await asyncio.to_thread(gateway.storage.has, batch.input_file_id):
        await work.answer()
    else:
        await work.refuse([LineError("file_not_found", "The input file does not exist any more", "input_file_id")])
    log.info("batch ended", batch=id, status=work.batch.status, **msgspec.structs.asdict(work.batch.counts))


async def _fail(gateway: Gateway, id: str) -> None:
    error = LineError("internal_error", "The batch was given up: everything that tried it failed")
    async with contextlib.aclosing(gateway):
        await gateway.batches.change(id, lambda batch: batch.turned("failed", errors=(error,)))
    log.error("batch given up", batch=id)


class _Work:
    """One batch under way."""

    def __init__(self, gateway: Gateway, app: ASGIApp, batch: Batch) -> None:
        self.batch = batch
        self._gateway = gateway
        self._storage = gateway.storage
        self._app = app
        self._slots = asyncio.Semaphore(gateway.settings.batch_concurrency)
        self._asking: set[asyncio.Task[Response]] = set()
        self._refusal: str | None = None
        self._counts = Counts()
        self._pieces = 0

    async def answer(self) -> None:
        """All requests, in their order, up to the files that tell of them."""
        limit = self._gateway.settings.max_body_bytes
        total, errors = await asyncio.to_thread(check, self._lines(), self.batch.endpoint, limit)
        if errors:
            await self.refuse(errors)
            return
        self._counts = Counts(total)
        await self._turn("in_progress", counts=self._counts)
        if self.batch.ended:
            return
        watching = asyncio.create_task(self._watch())
        try:
            await self._pieces_of(self._lines())
        finally:
            watching.cancel()
            await asyncio.wait({watching})
        if not watching.cancelled():
            watching.result()
        await self._end()

    async def refuse(self, errors: list[LineError]) -> None:
        """The batch cannot be answered."""
        await self._turn("failed", errors=tuple(errors))

    def _lines(self) -> Iterator[bytes]:
        return self._storage.lines(self.batch.input_file_id)

    async def _pieces_of(self, lines: Iterator[bytes]) -> None:
        while piece := await asyncio.to_thread(lambda: list(itertools.islice(lines, PIECE))):
            name = f"{self.batch.id}/{self._pieces}"
            if await asyncio.to_thread(self._storage.has, name):
                done = await asyncio.to_thread(list, self._storage.lines(name))
                self._add(count(done, 0))
            else:
                results = await asyncio.gather(*(self._result(read_line(raw)) for raw in piece))
                if self.batch.ended:  # elsewhere: nothing of this is wanted
                    return
                await asyncio.to_thread(self._storage.write, name, io.BytesIO(b"\n".join(results)))
            self._pieces += 1

    def _add(self, more: Counts) -> None:
        now = self._counts
        self._counts = Counts(now.total, now.completed + more.completed, now.failed + more.failed)

    async def _result(self, line: Line) -> bytes:
        async with self._slots:
            response = None if self._refusal else await self._unless_stopped(line)
        found = result(self.batch.id, line, response, None if response else self._refusal)
        self._add(count([found], 0))
        return found

    async def _unless_stopped(self, line: Line) -> Response | None:
        """The endpoint's answer; None where the batch was stopped before that."""
        asking = asyncio.ensure_future(self._ask(line))
        self._asking.add(asking)
        try:
            await asyncio.wait({asking})
        finally:
            self._asking.discard(asking)
            asking.cancel()
        return None if asking.cancelled() else asking.result()

    async def _ask(self, line: Line) -> Response:
        """The endpoint's answer; what may be tried again is, until the batch is stopped."""
        headers = {"idempotency-key": f"{self.batch.id}/{line.custom_id}"}
        body = msgspec.json.encode(line.body)
        while True:
            answer = await post(self._app, self.batch.endpoint, body, headers, self.batch.owner)
            if "retry-after" not in answer.headers:
                return Response(answer.status, _request_id(answer), msgspec.Raw(answer.body))
            await asyncio.sleep(float(answer.headers["retry-after"]) or RETRY_S)

    async def _watch(self) -> None:
        """Tell how far it is, and see whether it has been cancelled or is late."""
        while self._refusal is None:
            await asyncio.sleep(WATCH_S)
            batch = await self._change(self._counted)
            if batch.status == "cancelling" or batch.ended:
                self._stop("batch_cancelled")
            elif time.time() >= batch.expires_at:
                self._stop("batch_expired")

    def _counted(self, batch: Batch) -> Batch:
        """With the counts of now; as it is where another process, which took this one for dead, has ended it."""
        return batch if batch.ended else msgspec.structs.replace(batch, counts=self._counts)

    def _stop(self, refusal: str) -> None:
        self._refusal = refusal
        self._gateway.jobs.abandon()
        for task in self._asking:
            task.cancel()

    async def _end(self) -> None:
        ending: Status = "expired" if self._refusal == "batch_expired" else "completed"
        await self._turn("finalizing")
        if not self.batch.ended:
            await self._give(ending)
        await asyncio.to_thread(self._storage.remove, self.batch.id)

    async def _give(self, ending: Status) -> None:
        files = {
            "output_file_id": await self._gather("output", True, self._counts.completed),
            "error_file_id": await self._gather("errors", False, self._counts.failed),
        }
        await self._change(
            lambda batch: batch.turned(
                "cancelled" if batch.status == "cancelling" else ending, counts=self._counts, **files
            )
        )

    async def _gather(self, what: str, succeeded: bool, number: int) -> str | None:
        """A file of all results that did, or did not, succeed; none where there are none."""
        if not number:
            return None
        batch = self.batch
        id = f"file-{derived_id(batch.id, what)}"
        size = await asyncio.to_thread(self._storage.write, id, _Joined(self._results(succeeded)))
        file = File(id, batch.owner, size, int(time.time()), f"{batch.id}_{what}.jsonl", "batch_output")
        await self._patiently(lambda: self._gateway.files.put(batch.owner, id, file, bounded=False))
        return id

    def _results(self, succeeded: bool) -> Iterator[bytes]:
        for number in range(self._pieces):
            for line in self._storage.lines(f"{self.batch.id}/{number}"):
                if read_result(line).succeeded is succeeded:
                    yield line + b"\n"

    async def _turn(self, status: Status, **fields: object) -> None:
        await self._change(lambda batch: batch.turned(status, **fields))

    async def _change(self, change: Any) -> Batch:
        changed = await self._patiently(lambda: self._gateway.batches.change(self.batch.id, change))
        self.batch = changed or self.batch
        return self.batch

    async def _patiently(self, operation: Any) -> Any:
        return await patiently(operation, max(self.batch.expires_at - time.time(), BEGIN_TIMEOUT_S))


class _Joined:
    """Chunks as a file to read."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)

    def read(self, _: int = 0) -> bytes:
        """The next chunk, however long it is."""
        return next(self._chunks, b"")


def _request_id(answer: Answer) -> str:
    return answer.headers.get("x-request-id", "")
