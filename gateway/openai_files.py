"""The OpenAI API's files: what batches read, and what they give."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import IO, TypeVar

import structlog
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from gateway.batch_records import File
from gateway.bodies import BodyRefused
from gateway.callers import caller_of
from gateway.errors import json_answer
from gateway.gateway import Gateway, new_id
from gateway.openai_desk import refusal
from gateway.openai_objects import BatchObject, DeletedFile, FileObject, Page
from gateway.openai_types import MAX_FILES, FileQuery, read
from gateway.patience import BRIEF_S, patiently
from shared.errors import Code, CorollaError, InvalidField

# Whose files and batches they are where nobody has to say who they are.
EVERYBODY = "-"
CHUNK = 1 << 18
# An upload may take this long, and a second more for each so many bytes of it that have come.
UPLOAD_TIMEOUT_S = 14.0
UPLOAD_BYTES_PER_S = 16 << 10
MAX_NAME_CHARS = 200
# What a form has besides its file: other fields, and the lines between them.
FORM_BYTES = 64 << 10

T = TypeVar("T", FileObject, BatchObject)

log = structlog.get_logger()


class FilesApi:
    """The endpoints of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._files = gateway.files
        self._storage = gateway.storage

    async def list(self, request: Request) -> Response:
        """GET /v1/files."""
        try:
            asked, owner = read(dict(request.query_params), FileQuery), owner_of(request)
            files = await patiently(lambda: self._files.list(owner, MAX_FILES), BRIEF_S)
        except CorollaError as error:
            return refusal(error)
        if asked.order == "asc":
            files.reverse()
        if asked.after:
            ids = [file.id for file in files]
            files = files[ids.index(asked.after) + 1 :] if asked.after in ids else []
        files = [file for file in files if asked.purpose in (None, file.purpose)]
        return json_answer(page([file.shown() for file in files], asked.limit))

    async def create(self, request: Request) -> Response:
        """POST /v1/files: a multipart form with `file` and `purpose`."""
        try:
            async with self._form(request) as form:
                return json_answer((await self._keep(form, owner_of(request))).shown())
        except CorollaError as error:
            return refusal(error)

    async def show(self, request: Request) -> Response:
        """GET /v1/files/{id}."""
        try:
            return json_answer((await find_file(self._gateway, request.path_params["id"], owner_of(request))).shown())
        except CorollaError as error:
            return refusal(error)

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/files/{id}."""
        try:
            file = await find_file(self._gateway, request.path_params["id"], owner_of(request))
            # The record last: as long as it is there, what failed can be tried again.
            await asyncio.to_thread(self._storage.remove, file.id)
            await patiently(lambda: self._files.drop(file.owner, file.id), BRIEF_S)
        except CorollaError as error:
            return refusal(error)
        return json_answer(DeletedFile(file.id))

    async def content(self, request: Request) -> Response:
        """GET /v1/files/{id}/content."""
        try:
            file = await find_file(self._gateway, request.path_params["id"], owner_of(request))
            opened = await asyncio.to_thread(self._storage.open, file.id)
        except FileNotFoundError:
            return refusal(no_file(request.path_params["id"]))
        except CorollaError as error:
            return refusal(error)
        headers = {"content-length": str(file.bytes), "content-disposition": "attachment"}
        return StreamingResponse(_chunks(opened), headers=headers, media_type="application/octet-stream")

    @contextlib.asynccontextmanager
    async def _form(self, request: Request) -> AsyncIterator[FormData]:
        """The form; files in it are on disk where they are large. Raises CorollaError(INVALID), BodyRefused."""
        limit = self._gateway.settings.max_file_bytes + FORM_BYTES
        parser = MultiPartParser(
            request.headers, _body(request, limit), max_files=1, max_fields=20, max_part_size=FORM_BYTES
        )
        try:
            form = await parser.parse()
        except (MultiPartException, KeyError):
            raise CorollaError(Code.INVALID, "The body is not a valid multipart form") from None
        async with contextlib.aclosing(_Closing(form)):
            yield form

    async def _keep(self, form: FormData, owner: str) -> File:
        upload, purpose = form.get("file"), form.get("purpose")
        if not isinstance(upload, UploadFile):
            raise InvalidField("file", "`file` is required")
        if purpose != "batch":
            raise InvalidField("purpose", "`purpose` must be batch: files are for nothing else here")
        if not upload.size:
            raise InvalidField("file", "`file` is empty")
        id, now = f"file-{new_id()}", int(time.time())
        size = await asyncio.to_thread(self._storage.write, id, upload.file)
        file = File(id, owner, size, now, (upload.filename or "")[:MAX_NAME_CHARS], purpose)
        kept = False
        try:
            kept = await patiently(lambda: self._files.put(owner, id, file), BRIEF_S)
        finally:
            if not kept:
                await asyncio.to_thread(self._storage.remove, id)
        if not kept:
            raise CorollaError(Code.INVALID, "There are too many files, please delete some")
        log.info("file kept", file=id, bytes=size)
        return file


class _Closing:
    """A form whose close is called as everything's is."""

    def __init__(self, form: FormData) -> None:
        self.aclose = form.close


def owner_of(request: Request) -> str:
    """Whose files and batches a request is about."""
    return caller_of(request).account or EVERYBODY


async def find_file(gateway: Gateway, id: str, owner: str) -> File:
    """The record of that file. Raises CorollaError where the owner has none such."""
    file = await patiently(lambda: gateway.files.get(id), BRIEF_S)
    if file is None or file.owner != owner:
        raise no_file(id)
    return file


def no_file(id: str) -> CorollaError:
    """The error for a file that is not there."""
    return CorollaError(Code.SESSION_NOT_FOUND, f"No such file: {ascii(id)[1:-1][:64]}")


def page(rows: "list[T]", limit: int) -> Page[T]:
    """A list's object, of at most `limit` rows."""
    shown = rows[:limit]
    first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
    return Page(shown, first, last, len(rows) > limit)


async def _body(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The body in chunks. Raises BodyRefused where it is too large, or comes too slowly."""
    size, due = 0, asyncio.get_running_loop().time() + UPLOAD_TIMEOUT_S
    while True:
        try:
            async with asyncio.timeout_at(due + size / UPLOAD_BYTES_PER_S):
                message = await request.receive()
        except TimeoutError:
            slow = f"The file came too slowly: at least {UPLOAD_BYTES_PER_S >> 10} KiB a second are expected"
            raise BodyRefused(408, slow) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyRefused(413, f"The file is too large: at most {limit - FORM_BYTES} bytes are allowed")
        yield chunk
        if not message.get("more_body", False):
            return


async def _chunks(file: IO[bytes]) -> AsyncGenerator[bytes, None]:
    with file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk
