"""POST /api/v1/generate and HTTP sessions, over a real broker."""

import asyncio
import contextlib
import json
from typing import Any

import httpx
import pytest

from shared.errors import Code
from shared.messages import JobFailed
from shared.sampling import SamplingParams
from tests.gateway.conftest import MODEL, Serve, Served
from tests.gateway.player import Player
from tests.valkey import Valkey

pytestmark = pytest.mark.anyio

URL = "/api/v1/generate"
FIELDS = {"inputs": "A cat", "max_new_tokens": "3"}
TEXTS = (" sat", " on", "</s>")
ANSWER = {"ok": True, "outputs": " sat on</s>"}


async def test_a_form_json_a_query_and_multipart_are_the_same(gateway: Served, player: Player) -> None:
    async with player.playing(*TEXTS):
        answers = [
            await gateway.client.post(URL, data=FIELDS),
            await gateway.client.post(URL, json=FIELDS),
            await gateway.client.post(URL, params=FIELDS),
            await gateway.client.post(URL, files={name: (None, value) for name, value in FIELDS.items()}),
        ]
    for answer in answers:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == ANSWER


async def test_a_form_may_hold_raw_utf8(gateway: Served, player: Player) -> None:
    asking = asyncio.create_task(
        gateway.client.post(
            URL,
            content="inputs=Кот сидел&max_new_tokens=1".encode(),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
    )
    performance = await player.take()
    assert performance.claim.request.prompt == "Кот сидел"
    await performance.finish("x")
    assert (await asking).json() == {"ok": True, "outputs": "x"}


async def test_who_is_to_wait_is_told_how_long(serve: Serve, player: Player) -> None:
    async with serve(max_waiting_per_client=0) as one, serve(max_waiting=0) as two:
        mine, all_of_us = await one.client.post(URL, data=FIELDS), await two.client.post(URL, data=FIELDS)
    assert (mine.status_code, all_of_us.status_code) == (429, 503)
    assert mine.headers["retry-after"] == all_of_us.headers["retry-after"] == "1"
    text = "RuntimeError: You have 0 requests waiting already, please try again later"
    assert mine.json() == {"ok": False, "traceback": text}


async def test_the_query_wins_over_the_body_and_unknown_fields_are_ignored(gateway: Served, player: Player) -> None:
    asking = asyncio.create_task(
        gateway.client.post(URL, params={"inputs": "query", "colour": "red"}, json={"inputs": "body", "max_length": 9})
    )
    performance = await player.take()
    request = performance.claim.request
    assert (request.model, request.prompt, request.max_length) == (MODEL, "query", 9)
    await performance.finish("x")
    await asking


async def test_the_request_as_the_worker_gets_it(gateway: Served, player: Player) -> None:
    fields = {
        "model": "demo",
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 40,
        "repetition_penalty": 1.2,
        "max_new_tokens": 2,
        "seed": 7,
    }
    asking = asyncio.create_task(gateway.client.post(URL, json=fields))
    performance = await player.take()
    request = performance.claim.request
    assert request.sampling == SamplingParams(
        do_sample=True, temperature=0.6, top_k=40, top_p=0.9, repetition_penalty=1.2, seed=7
    )
    assert (request.prompt, request.max_new_tokens, request.max_length) == (None, 2, None)
    assert (request.stop, request.extra_stop, request.partial) == ((), (), False)
    await performance.finish("x")
    await asking


LENGTHS = "ValueError: You should set `max_length` or `max_new_tokens` (but not both)"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"inputs": "hi"}, LENGTHS),
        ({"max_length": 5, "max_new_tokens": 5}, LENGTHS),
        ({"model": "nobody", "max_new_tokens": 1}, "KeyError: 'nobody'"),
        ({"model": "", "max_new_tokens": 1}, "KeyError: ''"),
        (
            {"model": "corolla/adapter", "max_new_tokens": 1},
            "ValueError: We do not provide public API for corolla/adapter due to license restrictions",
        ),
        (
            {"max_new_tokens": 1, "session_id": "ab" * 16},
            f"""KeyError: "Session '{"ab" * 16}' expired or does not exist\"""",
        ),
        (
            {"max_new_tokens": 1, "session_id": "../x"},
            """KeyError: "Session '../x' expired or does not exist\"""",
        ),
        ({"max_new_tokens": 1, "top_k": "4.5"}, "ValueError: `top_k` must be a whole number, but is '4.5'"),
        ({"max_new_tokens": 1, "temperature": ""}, "ValueError: `temperature` must be a number, but is ''"),
        (
            {"max_new_tokens": 1, "inputs": "x" * 101},
            "ValueError: `inputs` has 101 characters, but at most 100 are allowed",
        ),
    ],
)
async def test_refusals(serve: Serve, content: dict[str, Any], expected: str) -> None:
    async with serve(max_prompt_chars=100) as gateway:
        answer = await gateway.client.post(URL, json=content)
    assert (answer.status_code, answer.json()) == (200, {"ok": False, "traceback": expected})


@pytest.mark.parametrize("body", [b"{", b'{"inputs": "\xc3"}', b"[1]", b"[" * 50_000, b'"x"'])
async def test_bad_json(gateway: Served, body: bytes) -> None:
    answer = await gateway.client.post(URL, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert answer.json()["traceback"] in (
        "ValueError: The body is not valid JSON in UTF-8",
        "ValueError: The body must be a JSON object",
    )


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-www-form-urlencoded", b"inputs=%C3&max_new_tokens=1"),
        ("application/x-www-form-urlencoded", b"inputs=\xff&max_new_tokens=1"),
        ("application/x-www-form-urlencoded", b"&".join([b"a=1"] * 101)),
        ("multipart/form-data; boundary=x", b"no form"),
        ("multipart/form-data", b"no form"),
        (
            "multipart/form-data; boundary=x; charset=unicode_escape",
            b'--x\r\nContent-Disposition: form-data; name="inputs"\r\n\r\n\\ud800\r\n--x--\r\n',
        ),
    ],
)
async def test_bad_forms(gateway: Served, kind: str, body: bytes) -> None:
    answer = await gateway.client.post(URL, content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["ok"]) == (200, False)
    assert answer.json()["traceback"].startswith(("ValueError: The", "ValueError: `inputs` must be valid Unicode"))


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit(gateway: Served, player: Player, declared: bool) -> None:
    big = json.dumps({"inputs": "x" * (2 << 20), "max_new_tokens": 1}).encode()

    async def pieces() -> Any:
        yield big

    content = big if declared else pieces()
    answer = await gateway.client.post(URL, content=content, headers={"Content-Type": "application/json"})
    text = "ValueError: The body is too large: at most 1048576 bytes are allowed"
    assert answer.json() == {"ok": False, "traceback": text}
    assert answer.headers["connection"] == "close"
    # and the service is unharmed
    async with player.playing(*TEXTS):
        assert (await gateway.client.post(URL, json=FIELDS)).json() == ANSWER


async def test_a_body_over_the_limit_is_not_even_asked_for(gateway: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.client.base_url.port)
    head = f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
    writer.write(head.encode())
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"at most 1048576 bytes are allowed" in answer


async def test_get_is_not_allowed(gateway: Served) -> None:
    answer = await gateway.client.get(URL)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json() == {"ok": False, "traceback": "HTTPException: Method Not Allowed"}


async def test_a_failed_job_in_the_words_that_clients_know(gateway: Served, player: Player) -> None:
    asking = asyncio.create_task(gateway.client.post(URL, json=FIELDS))
    performance = await player.take()
    await performance.say(" sat", ending=JobFailed(Code.CACHE_FULL, "the servers have no room,\nplease try later"))
    text = "RuntimeError: The attention cache is full: the servers have no room, please try later"
    assert (await asking).json() == {"ok": False, "traceback": text}


async def test_busy(serve: Serve) -> None:
    async with serve(max_waiting=1, max_waiting_per_client=1) as gateway:
        waiting = asyncio.create_task(gateway.client.post(URL, json=FIELDS))
        refused = await until_refused(gateway)
        waiting.cancel()
    text = "RuntimeError: You have 1 requests waiting already, please try again later"
    assert refused == {"ok": False, "traceback": text}


async def until_refused(gateway: Served) -> Any:
    while True:
        with_short_patience = gateway.client.post(URL, json=FIELDS)
        try:
            answer = await asyncio.wait_for(with_short_patience, 0.5)
        except TimeoutError:
            continue
        return answer.json()


async def test_a_disconnect_cancels_the_job(gateway: Served, player: Player) -> None:
    asking = asyncio.create_task(gateway.client.post(URL, json=FIELDS))
    performance = await player.take()
    await performance.say(" sat")
    asking.cancel()
    await performance.until_cancelled()


async def test_a_job_that_is_late(serve: Serve) -> None:
    async with serve(deadline_s=1) as gateway:
        answer = (await gateway.client.post(URL, json=FIELDS)).json()
    text = "TimeoutError: The answer was not finished in time, please try again later"
    assert answer == {"ok": False, "traceback": text}


async def test_a_session_over_two_gateways(serve: Serve, player: Player, valkey: Valkey) -> None:
    async with serve() as one, serve() as two, player.playing("x", "y"):
        opened = (await one.client.get("/api/v1/open_inference_session?max_length=64")).json()
        session = opened["session_id"]
        answers = [
            await gateway.client.post(URL, json={"session_id": session, "max_new_tokens": 2}) for gateway in (one, two)
        ]
        assert valkey.client.hget(f"{{p}}:session:{session}", "max_length") == b"64"
        closed = (await two.client.get(f"/api/v1/close_inference_session?session_id={session}")).json()
        again = (await one.client.post("/api/v1/close_inference_session", data={"session_id": session})).json()
        late = (await one.client.post(URL, json={"session_id": session, "max_new_tokens": 2})).json()
    assert opened == {"ok": True, "session_id": session}
    assert len(session) == 32
    assert [answer.json() for answer in answers] == [{"ok": True, "outputs": "xy"}] * 2
    assert closed == again == {"ok": True, "session_id": session}
    assert late["traceback"] == f"""KeyError: "Session '{session}' expired or does not exist\""""


async def test_two_generates_on_a_session_take_turns(gateway: Served, player: Player) -> None:
    session = (await gateway.client.post("/api/v1/open_inference_session")).json()["session_id"]
    asking = [
        asyncio.create_task(gateway.client.post(URL, json={"session_id": session, "inputs": name, "max_new_tokens": 1}))
        for name in ("one", "two")
    ]
    first = await player.take()
    assert first.claim.session is not None
    assert first.claim.session.max_length == 1024
    assert not await player.is_offered_more()
    await first.finish("x")
    second = await player.take()
    await second.finish("y")
    assert {first.claim.request.prompt, second.claim.request.prompt} == {"one", "two"}
    assert sorted([(await each).json()["outputs"] for each in asking]) == ["x", "y"]


async def test_sessions_are_bounded_in_number_and_length(serve: Serve) -> None:
    async with serve(max_sessions=1) as gateway:
        url = "/api/v1/open_inference_session"
        long = (await gateway.client.get(url, params={"max_length": 2049})).json()
        secret = (await gateway.client.get(url, params={"model": "corolla/adapter"})).json()
        first = (await gateway.client.get(url)).json()
        second = await gateway.client.get(url)
    assert long["traceback"] == f"ValueError: `max_length` must be at most 2048 for {MODEL}, but is 2049"
    assert secret["traceback"].startswith("ValueError: We do not provide public API for")
    assert first["ok"] is True
    text = "ValueError: Too many opened inference sessions (max 1), please come back later"
    assert second.json() == {"ok": False, "traceback": text}
    assert (second.status_code, second.headers["retry-after"]) == (503, "2")


async def test_a_broker_that_is_away_means_waiting(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.petals_http.BRIEF_S", 0.2)
    async with serve(redis_url="redis://127.0.0.1:1/0") as gateway:
        answer = await gateway.client.get("/api/v1/open_inference_session")
    text = "ConnectionError: The message broker does not answer, please try again later"
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json() == {"ok": False, "traceback": text}


async def test_a_session_keeps_its_model(gateway: Served) -> None:
    session = (await gateway.client.get("/api/v1/open_inference_session")).json()["session_id"]
    fields = {"session_id": session, "max_new_tokens": 1, "model": "corolla/adapter"}
    answer = (await gateway.client.post(URL, json=fields)).json()
    assert answer["traceback"] == f"ValueError: The session is one of {MODEL}, not of corolla/adapter"


async def test_a_broker_that_is_away_for_a_moment_is_waited_for(
    gateway: Served, player: Player, valkey: Valkey
) -> None:
    # given a job under way
    asking = asyncio.create_task(gateway.client.post(URL, json=FIELDS))
    performance = await player.take()
    await performance.say(" sat")
    # when the broker is killed and started again
    valkey.write_through()
    valkey.kill()
    later = asyncio.create_task(gateway.client.post(URL, json=FIELDS))
    valkey.start()
    # then the answer is complete, and so is one that was asked for meanwhile
    while (await performance.finish(" on", "</s>")).status != "ok":
        performance = await player.take()
    assert (await asking).json() == ANSWER
    async with player.playing(*TEXTS):
        assert (await later).json() == ANSWER


async def test_an_answer_under_way_is_finished_before_the_gateway_stops(serve: Serve, player: Player) -> None:
    async with httpx.AsyncClient(timeout=30) as client:
        async with serve() as gateway:
            asking = asyncio.create_task(client.post(gateway.url + URL, json=FIELDS))
            performance = await player.take()

            async def finish_once_it_stops() -> None:
                # A request that was under way as the gateway stopped is cut off; later ones find nobody listening.
                with contextlib.suppress(httpx.TransportError):
                    while True:
                        await client.get(f"{gateway.url}/health/live")
                await performance.finish(*TEXTS)

            finishing = asyncio.create_task(finish_once_it_stops())
        assert (await asking).json() == ANSWER
        await finishing
