"""The OpenAI API over a real broker, with a worker that says what a test tells it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway import sse
from shared.errors import Code
from shared.messages import FinishReason, JobFailed, JobFinished, Message, Token
from tests.gateway.conftest import MODEL, Serve, Served
from tests.gateway.player import Performance, Player, token, weighed

pytestmark = pytest.mark.anyio

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "hi"}]}
A_CAT = {"prompt": "A cat"}
TWO = {"prompt": ["a", "b"]}


@contextlib.asynccontextmanager
async def asking(gateway: Served, url: str, **fields: Any) -> AsyncIterator["asyncio.Task[httpx.Response]"]:
    """A request under way; it is over at the end."""
    task = asyncio.create_task(gateway.client.post(url, json=fields))
    yield task
    await task


def data(raw: str) -> list[Any]:
    """The events of a stream."""
    lines = [line.removeprefix("data: ") for line in raw.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def test_models(gateway: Served) -> None:
    listed = (await gateway.client.get("/v1/models")).json()
    one = (await gateway.client.get(f"/v1/models/{MODEL}")).json()
    alias = (await gateway.client.get("/v1/models/demo")).json()
    assert listed == {"object": "list", "data": [one]}
    assert (one["id"], one["object"], one["max_model_len"]) == (MODEL, "model", 2048)
    assert alias == one | {"id": "demo"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/models/nobody", 404, "model_not_found"),
        ("GET", "/v1/models/corolla/adapter", 403, "model_not_public"),
        ("GET", "/v1/nowhere", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
    ],
)
async def test_errors_of_paths(gateway: Served, method: str, path: str, status: int, code: str) -> None:
    answer = await gateway.client.request(method, path, headers={"x-request-id": "mine"})
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert answer.json()["object"] == "error"
    assert (answer.headers["x-request-id"], answer.headers["x-should-retry"]) == ("mine", "false")


async def test_a_completion(gateway: Served, player: Player) -> None:
    async with asking(gateway, COMPLETIONS, prompt="A cat", max_tokens=3, model="demo") as answer:
        performance = await player.take()
        assert performance.claim.request.prompt == "A cat"
        await performance.say(" sat")
        await performance.say(" on", "", ending=JobFinished(FinishReason.STOP, 2, 3))
    response = await answer
    content = response.json()
    assert (response.status_code, len(response.headers["x-request-id"])) == (200, 32)
    assert content["id"] == f"cmpl-{performance.claim.job}"
    assert (content["object"], content["model"]) == ("text_completion", "demo")
    assert content["choices"] == [{"index": 0, "text": " sat on", "logprobs": None, "finish_reason": "stop"}]
    assert content["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


async def test_a_dialogue(gateway: Served, player: Player) -> None:
    async with asking(gateway, CHAT, **HI) as answer:
        performance = await player.take()
        assert performance.claim.request.messages == (Message("user", "hi"),)
        await performance.finish(" Hello", "!")
    content = (await answer).json()
    assert content["id"] == f"chatcmpl-{performance.claim.job}"
    assert content["choices"][0]["message"] == {"role": "assistant", "content": "Hello!"}


async def test_a_streamed_dialogue(gateway: Served, player: Player) -> None:
    async with asking(gateway, CHAT, **HI, stream=True, stream_options={"include_usage": True}) as answer:
        performance = await player.take()
        await performance.say(" Hello")
        await performance.say("!", ending=JobFinished(FinishReason.STOP, 5, 2))
    response = await answer
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    *chunks, usage, done = data(response.text)
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["", "Hello", "!", None]
    assert usage["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    assert done == "[DONE]"


async def test_several_prompts_and_choices_are_jobs_of_their_own(gateway: Served, player: Player) -> None:
    async with asking(gateway, COMPLETIONS, prompt=["a", "b"], n=2, echo=True) as answer:
        performances = [await player.take(), await player.take()]
        for performance in performances:
            prompt = performance.claim.request.prompt
            tokens = [Token(0, f"{prompt}{choice}", choice) for choice in (1, 0)]
            ending = JobFinished(FinishReason.STOP, 1, 2, (FinishReason.LENGTH,))
            await performance.tell(*tokens, ending=ending)
    content = (await answer).json()
    rows = [(each["index"], each["text"], each["finish_reason"]) for each in content["choices"]]
    assert rows == [(0, "aa0", "stop"), (1, "aa1", "length"), (2, "bb0", "stop"), (3, "bb1", "length")]
    assert content["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}


async def test_several_prompts_in_one_stream(gateway: Served, player: Player) -> None:
    async with asking(gateway, COMPLETIONS, prompt=["a", "b"], stream=True) as answer:
        one, two = await player.take(), await player.take()
        await two.finish("y")
        await one.finish("x")
    *chunks, done = data((await answer).text)
    texts = {0: "", 1: ""}
    for chunk in chunks:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert (texts, done) == ({0: "x", 1: "y"}, "[DONE]")


async def test_logprobs(gateway: Served, player: Player) -> None:
    async with asking(gateway, CHAT, **HI, logprobs=True, top_logprobs=1) as answer:
        performance = await player.take()
        await performance.tell(weighed("Hi", -0.5), ending=JobFinished(FinishReason.LENGTH, 1, 1))
    (told,) = (await answer).json()["choices"][0]["logprobs"]["content"]
    assert (told["token"], told["logprob"], len(told["top_logprobs"])) == ("Hi", -0.5, 1)


async def test_a_prompt_is_weighed_before_it_is_answered(gateway: Served, player: Player) -> None:
    async with asking(gateway, COMPLETIONS, prompt="A cat", max_tokens=1, echo=True, logprobs=1) as answer:
        reading = await player.take()
        assert (reading.claim.request.echo, reading.claim.request.sampling.logprobs) == (True, 1)
        await reading.tell(token("A"), weighed(" cat", -3.0), ending=JobFinished(FinishReason.STOP, 2))
        writing = await player.take()
        assert not writing.claim.request.echo
        await writing.tell(weighed(" sat", -0.5), ending=JobFinished(FinishReason.LENGTH, 2, 1))
    content = (await answer).json()
    assert content["id"] == f"cmpl-{writing.claim.job}"
    assert content["choices"][0]["text"] == "A cat sat"
    assert content["choices"][0]["logprobs"]["token_logprobs"] == [None, -3.0, -0.5]
    assert content["usage"] == {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_is_weighed_and_not_answered(gateway: Served, player: Player, stream: bool) -> None:
    fields = {"max_tokens": 0, "echo": True, "logprobs": 0, "n": 2, "stream": stream}
    async with asking(gateway, COMPLETIONS, prompt=["A cat", [7]], **fields) as answer:
        for prompt in ("A cat", (7,)):
            reading = await player.take()
            assert reading.claim.request.prompt == prompt
            await reading.tell(token("A"), weighed(" cat", -3.0), ending=JobFinished(FinishReason.STOP, 2))
    raw = await answer
    objects = data(raw.text)[:-1] if stream else [raw.json()]
    choices = [choice for each in objects for choice in each["choices"]]
    told = [(each["index"], each["text"], each["logprobs"]["token_logprobs"]) for each in choices if each["logprobs"]]
    assert told == [(index, "A cat", [None, -3.0]) for index in range(4)]
    assert [each["index"] for each in choices if each["finish_reason"] == "length"] == list(range(4))
    if not stream:
        assert objects[0]["usage"] == {"prompt_tokens": 4, "completion_tokens": 0, "total_tokens": 4}
    assert not await player.is_offered_more()


async def refuse(performance: Performance, code: Code, lengths: tuple[int, int, int] | None = None) -> None:
    await performance.say(ending=JobFailed(code, "the worker's words", lengths))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "status", "retry"), [(Code.INVALID, 400, None), (Code.SWARM, 503, "2"), (Code.INTERNAL, 500, None)]
)
async def test_a_job_that_fails_before_its_first_token_has_its_status(
    gateway: Served, player: Player, stream: bool, code: Code, status: int, retry: str | None
) -> None:
    async with asking(gateway, CHAT, **HI, stream=stream) as answer:
        await refuse(await player.take(), code)
    response = await answer
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    assert response.headers.get("retry-after") == retry
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_too_long_in_openais_words(gateway: Served, player: Player) -> None:
    async with asking(gateway, CHAT, **HI, stream=True) as answer:
        await refuse(await player.take(), Code.TOO_LONG, (2000, 100, 2048))
    error = (await answer).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["message"].startswith(
        "This model's maximum context length is 2048 tokens. However, you requested 2100"
    )


@pytest.mark.parametrize("prompts", ["a", ["a", "b"]])
async def test_a_failure_in_mid_stream_is_an_event(gateway: Served, player: Player, prompts: object) -> None:
    async with asking(gateway, COMPLETIONS, prompt=prompts, stream=True) as answer:
        performance = await player.take()
        await performance.say("x")
        await performance.say("y", ending=JobFailed(Code.SWARM, "no servers"))
    response = await answer
    *chunks, last = data(response.text)
    assert response.status_code == 200
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "xy"
    assert last["error"]["message"] == "no servers"


@pytest.mark.parametrize(("code", "is_new"), [(Code.SWARM, True), (Code.DISCONTINUITY, True), (Code.POISON, False)])
async def test_who_tries_again_by_the_same_key_does_not_get_the_same_failure(
    gateway: Served, player: Player, code: Code, is_new: bool
) -> None:
    # given a failure that clients try again by themselves, or one that would come again
    headers = {"idempotency-key": "one"}
    first = asyncio.create_task(gateway.client.post(COMPLETIONS, json=A_CAT, headers=headers))
    await (await player.take()).say("x", ending=JobFailed(code, "no servers"))
    assert (await first).status_code >= 500
    # when it is tried again
    second = asyncio.create_task(gateway.client.post(COMPLETIONS, json=A_CAT, headers=headers))
    if is_new:
        await (await player.take()).finish("y")
    # then
    assert (await second).is_success == is_new


async def end_with_half(gateway: Served, player: Player, headers: dict[str, str], code: Code | None) -> str:
    """A request of two prompts whose first is answered, and whose second fails, or is cancelled; its id."""
    asking = asyncio.create_task(gateway.client.post(COMPLETIONS, json=TWO, headers=headers))
    one, two = await player.take(), await player.take()
    await one.finish("x")
    if code:
        await refuse(two, code)
    else:
        await gateway.client.delete(f"/v1/jobs/cmpl-{one.claim.job}")
        await two.say("y", ending=JobFinished(FinishReason.CANCELLED, 1, 1))
    assert (await asking).is_success == (code is None)
    return f"cmpl-{one.claim.job}"


@pytest.mark.parametrize("code", [Code.SWARM, None])
async def test_half_an_answer_is_not_given_to_who_tries_again(
    gateway: Served, player: Player, code: Code | None
) -> None:
    # given
    headers = {"idempotency-key": "one"}
    await end_with_half(gateway, player, headers, code)
    # when it is tried again
    again = asyncio.create_task(gateway.client.post(COMPLETIONS, json=TWO, headers=headers))
    for _ in range(2):
        await (await player.take()).finish("z")
    # then
    assert [choice["text"] for choice in (await again).json()["choices"]] == ["z", "z"]
    # and the whole answer is given once more
    once_more = await gateway.client.post(COMPLETIONS, json=TWO, headers=headers)
    assert once_more.json()["id"] == (await again).json()["id"]


@pytest.mark.parametrize(("code", "status"), [(Code.SWARM, "failed"), (None, "cancelled")])
async def test_an_answer_is_as_complete_as_all_its_jobs(
    gateway: Served, player: Player, code: Code | None, status: str
) -> None:
    id = await end_with_half(gateway, player, {}, code)
    assert (await gateway.client.get(f"/v1/jobs/{id}")).json()["status"] == status


async def begin(player: Player) -> Performance:
    """A job whose first token is said."""
    performance = await player.take()
    await performance.say("Hi")
    return performance


async def test_who_leaves_a_stream_ends_its_job(gateway: Served, player: Player) -> None:
    beginning = asyncio.create_task(begin(player))
    async with gateway.client.stream("POST", CHAT, json=HI | {"stream": True}) as response:
        await anext(response.aiter_raw())
    await (await beginning).until_cancelled()


@pytest.mark.parametrize("fields", [{}, {"prompt": ["a", "b"]}, {"stream": True}])
async def test_who_leaves_before_the_first_token_ends_all_jobs(
    gateway: Served, player: Player, fields: dict[str, Any]
) -> None:
    task = asyncio.create_task(gateway.client.post(COMPLETIONS, json=A_CAT | fields))
    performances = [await player.take() for _ in fields.get("prompt", [""])]
    task.cancel()
    for performance in performances:
        await performance.until_cancelled()


async def test_a_silent_stream_says_that_it_lives(
    gateway: Served, player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "COMMIT_S", 0.05)
    monkeypatch.setattr(sse, "PING_S", 0.05)
    async with gateway.client.stream("POST", CHAT, json=HI | {"stream": True}) as response:
        performance = await player.take()
        heard = response.aiter_raw()
        assert [await anext(heard), await anext(heard)] == [b": ping\n", b": ping\n"]
        await refuse(performance, Code.SWARM)
        rest = b"".join([part async for part in heard]).replace(b": ping\n", b"")
    # too late for a status of its own
    assert response.status_code == 200
    assert data(rest.decode())[0]["error"]["code"] == "swarm_unavailable"


async def test_no_worker(gateway: Served) -> None:
    answer = await gateway.client.post(CHAT, json=HI)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error"]["message"] == f"No worker serves the model `{MODEL}` now, please try again later"


async def test_too_many_wait(serve: Serve, player: Player) -> None:
    async with serve(max_waiting_per_client=0) as one, serve(max_waiting=0) as two:
        mine, all_of_us = await one.client.post(CHAT, json=HI), await two.client.post(CHAT, json=HI)
    assert (mine.status_code, mine.json()["error"]["type"]) == (429, "rate_limit_error")
    assert (all_of_us.status_code, all_of_us.json()["error"]["code"]) == (503, "server_is_overloaded")
    assert mine.headers["retry-after"] == all_of_us.headers["retry-after"] == "1"


async def test_a_job_that_is_late(serve: Serve, player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.jobs.DEADLINE_MARGIN_S", 0.2)
    async with serve(deadline_s=1) as gateway, asking(gateway, CHAT, **HI) as answer:
        await player.take()
    assert ((await answer).status_code, (await answer).headers["x-should-retry"]) == (504, "false")


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"prompt": "\xc3"}', b"[" * 50_000, b'{"prompt": "\\ud800"}'])
async def test_bad_bodies(gateway: Served, body: bytes) -> None:
    answer = await gateway.client.post(COMPLETIONS, content=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_a_body_over_the_limit(serve: Serve) -> None:
    async with serve(max_body_bytes=1024) as gateway:
        answer = await gateway.client.post(COMPLETIONS, json={"prompt": "x" * 2000})
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")


async def test_the_content_type_does_not_matter(gateway: Served, player: Player) -> None:
    async with player.playing(" sat"):
        answer = await gateway.client.post(COMPLETIONS, content=json.dumps(A_CAT), headers={"Content-Type": "x/y"})
    assert answer.json()["choices"][0]["text"] == " sat"


async def test_unknown_fields_are_logged_once_by_name(gateway: Served, player: Player) -> None:
    with capture_logs() as logs:
        async with player.playing("x"):
            for _ in range(2):
                await gateway.client.post(COMPLETIONS, json=A_CAT | {"colour": "secret"})
    assert [line["field"] for line in logs if line["event"] == "unknown field"] == ["'colour'"]
    assert "secret" not in str(logs)


async def test_files_and_batches_may_be_switched_off(gateway: Served, serve: Serve) -> None:
    assert [(await gateway.client.get(path)).status_code for path in ("/v1/files", "/v1/batches")] == [200, 200]
    async with serve(batch_api="off") as without:
        for path in ("/v1/files", "/v1/batches", "/v1/batches/batch-1"):
            answer = await without.client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert (await without.client.get("/v1/models")).status_code == 200
