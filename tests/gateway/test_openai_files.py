"""Uploads that come slowly, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway.conftest import Serve
from tests.valkey import Valkey
from tests.waiting import until_closed

pytestmark = pytest.mark.anyio

HEAD = (
    b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
)
FORM = {"content-type": "multipart/form-data; boundary=x"}
PAUSE_S = 0.05


async def slowly(parts: list[bytes]) -> AsyncIterator[bytes]:
    for part in (HEAD + parts[0], *parts[1:], b"\r\n--x--\r\n"):
        yield part
        await asyncio.sleep(PAUSE_S)


async def test_an_upload_that_hardly_moves_is_given_up(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.openai_files.UPLOAD_TIMEOUT_S", 0.5)
    async with serve(files=tmp_path) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.client.base_url.port)
        writer.write(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n")
        writer.write(b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + HEAD)
        answer = asyncio.create_task(until_closed(reader))
        # when a byte comes every now and then, for ever
        while not answer.done():
            await asyncio.wait({answer}, timeout=PAUSE_S)
            writer.write(b"x")
        writer.close()
    assert answer.result().startswith(b"HTTP/1.1 408 ")
    assert b"The file came too slowly: at least 16 KiB a second are expected" in answer.result()


async def test_a_large_upload_has_more_time(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given one that takes twice the time that a small one may, after a first part that gives it time to stand still
    monkeypatch.setattr("gateway.openai_files.UPLOAD_TIMEOUT_S", 0.5)
    parts = [json.dumps({"custom_id": number}).encode().ljust(32 << 10) + b"\n" for number in range(40)]
    async with serve(files=tmp_path) as gateway:
        answer = await gateway.client.post(
            "/v1/files", content=slowly([b"".join(parts[:20]), *parts[20:]]), headers=FORM
        )
        assert answer.status_code == 200
        kept = await gateway.client.get(f"/v1/files/{answer.json()['id']}/content")
    assert kept.content == b"".join(parts)


async def test_an_upload_that_cannot_be_recorded_leaves_nothing(
    serve: Serve, valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.openai_files.BRIEF_S", 0.1)
    async with serve(files=tmp_path) as gateway:
        valkey.kill()
        answer = await gateway.client.post("/v1/files", data={"purpose": "batch"}, files={"file": b"x"})
        valkey.start()
    assert answer.status_code == 503
    assert _names(tmp_path) == []


async def test_a_file_that_could_not_be_deleted_can_be_deleted_again(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(files=tmp_path) as gateway:
        kept = await gateway.client.post("/v1/files", data={"purpose": "batch"}, files={"file": b"x"})
        url = f"/v1/files/{kept.json()['id']}"
        # given a disk that fails once
        with monkeypatch.context() as failing:
            failing.setattr("gateway.storage.Storage.remove", _fail)
            assert (await gateway.client.delete(url)).status_code == 500
        assert (await gateway.client.delete(url)).status_code == 200
        assert (await gateway.client.get(url)).status_code == 404
    assert _names(tmp_path) == []


def _fail(*_: object) -> None:
    raise OSError


def _names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]
