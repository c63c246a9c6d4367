"""Files and batches through the API: real gateway, RQ worker and model worker, with an oracle for a model."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from gateway.batch_records import Batch
from gateway.gateway import MAX_RECORDS
from gateway.openai_objects import Counts
from shared.keys import Keys
from shared.link import Link
from shared.shelf import Shelf
from tests.e2e.conftest import ORACLES
from tests.e2e.test_clients import run_suite
from tests.services import BatchWorker, Gateway, Worker
from tests.valkey import Valkey
from tests.waiting import until
from worker.oracle_backend import text

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

CHAT = "/v1/chat/completions"
TOKENS = 12


class Batches:
    """A client, and the services that answer it."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        catalog = folder / "catalog.toml"
        catalog.write_text(ORACLES)
        self.files = folder / "files"
        files = str(self.files)
        self.worker = Worker(folder / "worker.log", redis_url, catalog)
        self.gateway = Gateway(folder / "gateway.log", redis_url, catalog, files=files)
        self.runner = BatchWorker(folder / "runner.log", redis_url, catalog, files=files, batch_concurrency=4)
        self.client = httpx.Client(base_url=self.gateway.url, timeout=30)

    def start(self) -> None:
        for service in (self.worker, self.gateway, self.runner):
            service.start()
        until(self.gateway.is_ready)

    def kill(self) -> None:
        self.client.close()
        for service in (self.runner, self.gateway, self.worker):
            service.kill()

    def upload(self, *lines: dict[str, Any] | bytes) -> str:
        """A file of these lines; its id."""
        raw = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
        form = {"purpose": "batch"}
        answer = self.client.post("/v1/files", data=form, files={"file": ("in.jsonl", raw, "application/jsonl")})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def create(self, *lines: dict[str, Any] | bytes, endpoint: str = CHAT) -> str:
        """A batch of these lines; its id."""
        asked = {"input_file_id": self.upload(*lines), "endpoint": endpoint, "completion_window": "24h"}
        answer = self.client.post("/v1/batches", json=asked)
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "validating"
        return str(answer.json()["id"])

    def batch(self, id: str) -> dict[str, Any]:
        found = self.client.get(f"/v1/batches/{id}")
        assert found.status_code == 200, found.text
        return dict(found.json())

    def done(self, id: str) -> int:
        """Requests of the batch that have ended."""
        counts = self.batch(id)["request_counts"]
        return int(counts["completed"] + counts["failed"])

    def ended(self, id: str, status: str, timeout_s: float = 60) -> dict[str, Any]:
        """The batch when it has ended, which must be in that status."""
        until(lambda: self.batch(id)["status"] in ("completed", "failed", "expired", "cancelled"), timeout_s)
        batch = self.batch(id)
        assert batch["status"] == status, batch
        return batch

    def results(self, file: str) -> list[dict[str, Any]]:
        answer = self.client.get(f"/v1/files/{file}/content")
        assert answer.status_code == 200, answer.text
        assert len(answer.content) == self.client.get(f"/v1/files/{file}").json()["bytes"]
        return [json.loads(line) for line in answer.text.splitlines()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.client.close()
    server.stop()


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory, server: Valkey) -> Iterator[Batches]:
    batches = Batches(tmp_path_factory.mktemp("batches"), server.url)
    try:
        batches.start()
        yield batches
    finally:
        batches.kill()


def line(number: int, tokens: int = TOKENS, **fields: object) -> dict[str, Any]:
    """A request whose answer is known: of that seed, and so many tokens."""
    body = {"messages": [{"role": "user", "content": "hi"}], "seed": number, "max_tokens": tokens, **fields}
    return {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body}


def texts(results: list[dict[str, Any]]) -> dict[str, str]:
    """By custom id; a request that is answered twice fails here."""
    found = {each["custom_id"]: each["response"]["body"]["choices"][0]["message"]["content"] for each in results}
    assert len(found) == len(results)
    return found


def expected(numbers: range, tokens: int = TOKENS) -> dict[str, str]:
    return {f"line-{number}": text(number, 0, tokens) for number in numbers}


def test_a_batch_from_its_file_to_its_results(batches: Batches) -> None:
    id = batches.create(*(line(number) for number in range(1, 8)), line(8, temperature=9))
    batch = batches.ended(id, "completed")
    assert batch["request_counts"] == {"total": 8, "completed": 7, "failed": 1}
    assert batch["in_progress_at"] <= batch["finalizing_at"] <= batch["completed_at"]

    # the answers are those of the endpoint, in the order of the file
    results = batches.results(batch["output_file_id"])
    assert [each["custom_id"] for each in results] == [f"line-{number}" for number in range(1, 8)]
    assert texts(results) == expected(range(1, 8))
    first = results[0]["response"]
    assert (first["status_code"], results[0]["error"]) == (200, None)
    assert first["body"]["usage"] == {"prompt_tokens": 22, "completion_tokens": TOKENS, "total_tokens": TOKENS + 22}

    # what the endpoint refused is told in the other file
    (refused,) = batches.results(batch["error_file_id"])
    assert (refused["custom_id"], refused["response"]["status_code"]) == ("line-8", 400)
    assert refused["response"]["body"]["error"]["param"] == "temperature"

    # nothing else is left, and files can be deleted
    mine = {batch["input_file_id"], batch["output_file_id"], batch["error_file_id"]}
    until(lambda: {file.name for file in batches.files.iterdir()} == mine)
    listed = batches.client.get("/v1/files", params={"order": "asc"}).json()
    assert listed["data"][0]["id"] == batch["input_file_id"]
    for file in mine:
        assert batches.client.delete(f"/v1/files/{file}").json() == {"id": file, "object": "file", "deleted": True}
        assert batches.client.get(f"/v1/files/{file}").status_code == 404
    assert list(batches.files.iterdir()) == []


def test_a_batch_whose_owner_has_too_many_files(batches: Batches, server: Valkey) -> None:
    # given an input that was the last file to be accepted
    index = "{p}:owned:file:-"
    room = MAX_RECORDS - server.client.zcard(index)
    server.client.zadd(index, {f"file-{number}": number for number in range(1, room)})
    # when
    batch = batches.ended(batches.create(line(1)), "completed")
    # then what was accepted is given all the same, and no more is accepted
    assert texts(batches.results(batch["output_file_id"])) == expected(range(1, 2))
    refused = batches.client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", b"{}")})
    assert refused.status_code == 400
    server.client.zremrangebyscore(index, 0, MAX_RECORDS)


def test_a_file_that_is_no_batch(batches: Batches) -> None:
    twice, other = line(1), {**line(2), "url": "/v1/completions"}
    batch = batches.ended(batches.create(twice, twice, other, b"{", line(3, stream=True)), "failed")
    assert [(each["line"], each["code"]) for each in batch["errors"]["data"]] == [
        (2, "duplicate_custom_id"),
        (3, "mismatched_endpoint"),
        (4, "invalid_json_line"),
        (5, "invalid_request"),
    ]
    assert (batch["output_file_id"], batch["error_file_id"]) == (None, None)


def test_a_cancelled_batch_keeps_what_it_has(batches: Batches) -> None:
    id = batches.create(*(line(number, 5) for number in range(1, 5)), *(line(n, 400) for n in range(5, 9)))
    until(lambda: batches.done(id) == 4)
    assert batches.client.post(f"/v1/batches/{id}/cancel").json()["status"] == "cancelling"
    batch = batches.ended(id, "cancelled")
    assert texts(batches.results(batch["output_file_id"])) == expected(range(1, 5), 5)
    errors = batches.results(batch["error_file_id"])
    assert [each["error"]["code"] for each in errors] == ["batch_cancelled"] * 4
    again = batches.client.post(f"/v1/batches/{id}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")


def test_the_jobs_of_a_cancelled_batch_end_with_it(batches: Batches, server: Valkey) -> None:
    # given requests whose answers would take half a minute
    def running() -> int:
        return sum(server.client.hget(key, "state") == b"running" for key in server.client.scan_iter("{p}:job:*"))

    id = batches.create(*(line(number, 1500) for number in range(1, 5)))
    until(lambda: running() == 4)
    # when
    batches.client.post(f"/v1/batches/{id}/cancel")
    batches.ended(id, "cancelled")
    # then
    until(lambda: running() == 0, 10)


def test_a_batch_whose_time_is_over_keeps_what_it_has(batches: Batches, server: Valkey) -> None:
    id = batches.create(*(line(number, 5) for number in range(1, 5)), *(line(n, 400) for n in range(5, 9)))
    until(lambda: batches.done(id) == 4)
    asyncio.run(_change(server.url, id, _late))
    batch = batches.ended(id, "expired")
    assert texts(batches.results(batch["output_file_id"])) == expected(range(1, 5), 5)
    assert [each["error"]["code"] for each in batches.results(batch["error_file_id"])] == ["batch_expired"] * 4


def test_a_batch_that_another_process_has_ended_stays_as_it_is(batches: Batches, server: Valkey) -> None:
    # given a process that was taken for dead, and another one that was faster
    id = batches.create(*(line(number, 5) for number in range(1, 5)), *(line(n, 400) for n in range(5, 9)))
    until(lambda: batches.done(id) == 4)
    asyncio.run(_change(server.url, id, _completed))
    ended = batches.batch(id)
    # when it sees that
    until(lambda: any(each["event"] == "batch ended" and each["batch"] == id for each in batches.runner.lines()))
    # then
    assert batches.batch(id) == ended
    assert ended["request_counts"] == {"total": 8, "completed": 8, "failed": 0}
    assert not (batches.files / id).exists()
    assert [file["filename"] for file in batches.client.get("/v1/files").json()["data"] if id in file["filename"]] == []


@pytest.mark.parametrize(("late", "status"), [(False, "completed"), (True, "expired")], ids=["in time", "late"])
def test_a_batch_that_is_lost_from_the_line(batches: Batches, server: Valkey, late: bool, status: str) -> None:
    # given a record alone, as it is where the broker dies before it has written the rest
    assert batches.runner.terminate() == 0
    id = batches.create(line(1, 400 if late else TOKENS))
    server.client.delete("rq:queue:batches", f"rq:job:{id}")
    if late:
        asyncio.run(_change(server.url, id, _late))
    # when
    batches.runner.start()
    # then whoever asks for it lines it up
    assert batches.ended(id, status)["request_counts"]["total"] == 1


async def _change(redis_url: str, id: str, change: Callable[[Batch], Batch]) -> None:
    link = Link(redis_url, Keys().prefix)
    await Shelf(link, Keys(), "batch", Batch, 0, 1).change(id, change)
    await link.close()


def _late(batch: Batch) -> Batch:
    """Its completion window is over now."""
    return msgspec.structs.replace(batch, expires_at=batch.created_at)


def _completed(batch: Batch) -> Batch:
    """All its requests were answered."""
    return batch.turned("finalizing").turned("completed", counts=Counts(8, 8))


def test_refusals(batches: Batches) -> None:
    def error(answer: httpx.Response) -> tuple[int, object, str]:
        told = answer.json()["error"]
        return answer.status_code, told["param"], told["message"]

    client, file = batches.client, {"file": ("in.jsonl", b"{}", "application/jsonl")}
    allowed = "`purpose` must be batch: files are for nothing else here"
    assert error(client.post("/v1/files", data={"purpose": "fine-tune"}, files=file)) == (400, "purpose", allowed)
    assert error(client.post("/v1/files", data={"purpose": "batch"}, files={"x": b"y"})) == (
        400,
        "file",
        "`file` is required",
    )
    assert error(client.post("/v1/files", json={})) == (400, None, "The body is not a valid multipart form")
    assert error(client.get("/v1/files/file-0")) == (404, None, "No such file: file-0")
    assert error(client.get("/v1/batches/batch_0")) == (404, None, "No such batch: batch_0")
    asked = {"input_file_id": batches.upload(line(1)), "endpoint": CHAT}
    window = "`completion_window` must be 1h to 168h, such as 24h"
    assert error(client.post("/v1/batches", json={**asked, "completion_window": "0h"})) == (
        400,
        "completion_window",
        window,
    )
    endpoints = "`endpoint` must be one of /v1/chat/completions, /v1/completions, /v1/embeddings"
    assert error(client.post("/v1/batches", json={**asked, "endpoint": "/v1/x"})) == (400, "endpoint", endpoints)
    assert error(client.post("/v1/batches", json={**asked, "input_file_id": "file-0"})) == (
        404,
        None,
        "No such file: file-0",
    )


def test_the_process_of_a_batch_is_killed(batches: Batches) -> None:
    id = batches.create(*(line(number, 40) for number in range(1, 13)))
    until(lambda: batches.done(id) >= 4)
    (horse,) = _children(batches.runner)
    horse.kill()
    batch = batches.ended(id, "completed")
    assert texts(batches.results(batch["output_file_id"])) == expected(range(1, 13), 40)


def test_the_process_of_a_batch_hands_it_on_when_its_worker_is_killed(batches: Batches) -> None:
    id = batches.create(*(line(number, 40) for number in range(1, 13)))
    until(lambda: batches.done(id) >= 4)
    assert batches.runner.process is not None
    batches.runner.process.kill()
    batches.runner.process.wait()
    batches.runner.start()
    batch = batches.ended(id, "completed")
    assert texts(batches.results(batch["output_file_id"])) == expected(range(1, 13), 40)


def test_a_batch_worker_that_is_told_to_stop_leaves_its_batch_to_the_next(batches: Batches) -> None:
    id = batches.create(*(line(number, 40) for number in range(1, 13)))
    until(lambda: batches.done(id) >= 4)
    assert batches.runner.terminate() == 0
    batches.runner.start()
    batch = batches.ended(id, "completed")
    assert texts(batches.results(batch["output_file_id"])) == expected(range(1, 13), 40)


def test_all_workers_are_killed(batches: Batches, server: Valkey) -> None:
    id = batches.create(*(line(number, 40) for number in range(1, 13)))
    until(lambda: batches.done(id) >= 4)
    batches.runner.kill()
    batches.worker.kill()
    # what else RQ would wait a minute for: the line has the batch again, and who was killed is known by name alone
    (execution,) = server.client.zrange("rq:wip:batches", 0, -1)
    assert isinstance(execution, bytes)
    server.client.zadd("rq:wip:batches", {execution: 1})
    server.client.delete(b"rq:execution:" + execution)
    server.client.zadd(f"rq:executions:{id}", {execution.partition(b":")[2]: time.time() + 59})
    before = len(batches.runner.lines())
    batches.runner.start()
    batches.worker.start()
    batch = batches.ended(id, "completed")
    assert texts(batches.results(batch["output_file_id"])) == expected(range(1, 13), 40)
    # and RQ knows that it is done
    until(lambda: not server.client.exists(f"rq:job:{id}"))
    assert [line["level"] for line in batches.runner.lines()[before:] if line["level"] != "info"] == []


@pytest.mark.parametrize("pins", ["openai2", "openai3"])
@pytest.mark.timeout(600)
def test_the_official_client(batches: Batches, pins: str) -> None:
    run_suite(pins, "batches", {"COROLLA_URL": batches.gateway.url})


def _children(runner: BatchWorker) -> list[psutil.Process]:
    assert runner.process is not None
    return psutil.Process(runner.process.pid).children()
