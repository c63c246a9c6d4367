"""API keys at a gateway: who may call what, and whose jobs, sessions, files and batches are whose."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from gateway.settings import Settings
from shared.api_keys import ApiKeys
from shared.errors import BrokerUnavailable
from shared.keys import Keys
from shared.link import Link
from shared.settings import SettingError, read
from tests.dialogue import Dialogue
from tests.gateway.conftest import MODEL, Serve, Served
from tests.gateway.player import Player
from tests.valkey import Valkey

pytestmark = pytest.mark.anyio

PEPPER = "p" * 32
GENERATE = "/api/v1/generate"
FIELDS = {"inputs": "hi", "max_new_tokens": 1}
PROMPT = {"model": MODEL, "prompt": "hi", "max_tokens": 1}
LINE = b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "hi"}}'


@pytest.fixture
async def keys(valkey: Valkey) -> AsyncIterator[ApiKeys]:
    link = Link(valkey.url, Keys().prefix)
    yield ApiKeys(link, Keys(), PEPPER)
    await link.close()


@pytest.fixture
async def guarded(serve: Serve) -> AsyncIterator[Served]:
    """A gateway whose callers need keys."""
    async with serve(auth="on", key_pepper=PEPPER) as served:
        yield served


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@contextlib.asynccontextmanager
async def dialogue(gateway: Served, key: str) -> AsyncIterator[Dialogue]:
    async with connect(gateway.ws_url, additional_headers=bearer(key)) as socket:
        yield Dialogue(socket)


async def test_without_a_key_one_is_told_so_in_the_apis_words(guarded: Served) -> None:
    petals = await guarded.client.post(GENERATE, data=FIELDS, headers={"origin": "https://a.example"})
    openai = await guarded.client.post("/v1/completions", json=PROMPT)
    text = "An API key is needed: `Authorization: Bearer KEY`"
    assert (petals.status_code, openai.status_code) == (401, 401)
    assert petals.json() == {"ok": False, "traceback": f"PermissionError: {text}"}
    assert openai.json()["error"] == {
        "message": text,
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }
    assert petals.headers["www-authenticate"] == "Bearer"
    assert petals.headers["access-control-allow-origin"] == "https://a.example"


@pytest.mark.parametrize("path", ["/", "/status", "/docs", "/docs.css", "/openapi.json", "/health/live"])
async def test_pages_and_health_are_for_everybody(guarded: Served, path: str) -> None:
    # The chat at / is away where its packages are not installed.
    assert (await guarded.client.get(path)).status_code in (200, 503)


@pytest.mark.parametrize("path", ["/v1/models", "/api/v1/models", "/metrics", "/v1/files", "/v1/nothing", "/webby"])
async def test_everything_else_is_not(guarded: Served, path: str) -> None:
    assert (await guarded.client.get(path)).status_code == 401


async def test_a_scope_is_for_its_paths(guarded: Served, keys: ApiKeys) -> None:
    paths = {"generate": "/v1/models", "batches": "/v1/files", "metrics": "/metrics"}
    for scope in paths:
        key = await keys.create("ann", (scope,))  # type: ignore[arg-type]
        got = {each: (await guarded.client.get(path, headers=bearer(key))).status_code for each, path in paths.items()}
        assert got == {each: 200 if each == scope else 403 for each in paths}
    answer = await guarded.client.get("/v1/models", headers=bearer(key))
    assert answer.json()["error"]["message"] == "This API key is not for this: it lacks the scope `generate`"
    assert answer.json()["error"]["code"] == "missing_scope"


async def test_a_key_in_a_url_is_none(guarded: Served, keys: ApiKeys) -> None:
    key = await keys.create("ann", ("generate",))
    for name in ("key", "api_key", "token", "authorization"):
        assert (await guarded.client.get("/v1/models", params={name: key})).status_code == 401


async def test_a_revoked_key_counts_no_longer(guarded: Served, keys: ApiKeys) -> None:
    key = await keys.create("ann", ("generate",))
    assert (await guarded.client.get("/v1/models", headers=bearer(key))).status_code == 200
    await keys.revoke(key[:16])
    assert (await guarded.client.get("/v1/models", headers=bearer(key))).status_code == 401


async def test_an_answer_with_a_key(guarded: Served, keys: ApiKeys, player: Player) -> None:
    headers = bearer(await keys.create("ann", ("generate",)))
    async with player.playing(" a"):
        petals = await guarded.client.post(GENERATE, data=FIELDS, headers=headers)
        openai = await guarded.client.post("/v1/completions", json=PROMPT, headers=headers)
    assert petals.json() == {"ok": True, "outputs": " a"}
    assert openai.json()["choices"][0]["text"] == " a"


NO_KEY = "0" * 16 + "." + "0" * 32


async def test_a_broker_that_is_away_is_not_a_wrong_key(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.guard.BRIEF_S", 0.2)
    async with serve(auth="on", key_pepper=PEPPER, redis_url="redis://127.0.0.1:1/0") as gateway:
        openai = await gateway.client.get("/v1/models", headers=bearer(NO_KEY))
        petals = await gateway.client.post(GENERATE, data=FIELDS, headers=bearer(NO_KEY))
        with pytest.raises(InvalidStatus) as refused:
            await connect(gateway.ws_url, additional_headers=bearer(NO_KEY))
    text = BrokerUnavailable().message
    socket = refused.value.response
    assert [openai.status_code, petals.status_code, socket.status_code] == [503] * 3
    assert [answer.headers["retry-after"] for answer in (openai, petals, socket)] == ["2"] * 3
    assert openai.json()["error"]["message"] == text
    assert openai.json()["error"]["code"] == "broker_unavailable"
    assert petals.json() == {"ok": False, "traceback": f"ConnectionError: {text}"}
    assert json.loads(socket.body) == petals.json()
    assert len(socket.headers["x-request-id"]) == 32


async def test_a_broker_that_is_away_for_a_moment_is_waited_for(guarded: Served, keys: ApiKeys, valkey: Valkey) -> None:
    headers = bearer(await keys.create("ann", ("generate",)))
    valkey.stop()
    asking = asyncio.create_task(guarded.client.get("/v1/models", headers=headers))
    await asyncio.to_thread(valkey.start)
    assert (await asking).status_code == 200


async def test_a_websocket_needs_a_key(guarded: Served, keys: ApiKeys) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(guarded.ws_url)
    assert refused.value.response.status_code == 403
    async with dialogue(guarded, await keys.create("ann", ("generate",))) as socket:
        assert (await socket.open(max_length=9))["ok"]


async def test_a_revoked_key_gets_no_further_answer_on_an_open_websocket(
    guarded: Served, keys: ApiKeys, player: Player
) -> None:
    key = await keys.create("ann", ("generate",))
    asking = {"type": "generate", "inputs": "hi", "max_new_tokens": 1, "stop_sequence": "###"}
    async with dialogue(guarded, key) as socket:
        await socket.open(max_length=99)
        # given an answer that is under way when the key is revoked
        await socket.send(asking)
        performance = await player.take()
        assert await keys.revoke(key[:16])
        await performance.finish("###")
        assert (await socket.receive())["outputs"] == "###"
        # then it was the last one
        await socket.send(asking)
        refused = await socket.receive()
        with pytest.raises(ConnectionClosed):
            await socket.receive()
    assert refused == {"ok": False, "traceback": "PermissionError: This API key does not count, or not any more"}
    assert not await player.is_offered_more()


async def test_a_page_gives_its_key_as_a_subprotocol(guarded: Served, keys: ApiKeys) -> None:
    offered = [Subprotocol("corolla"), Subprotocol("key." + await keys.create("ann", ("generate",)))]
    async with connect(guarded.ws_url, subprotocols=offered) as socket:
        assert socket.subprotocol == "corolla"
        assert (await Dialogue(socket).open(max_length=9))["ok"]


async def test_a_session_is_no_credential(guarded: Served, keys: ApiKeys) -> None:
    ann, bob = [bearer(await keys.create(name, ("generate",))) for name in ("ann", "bob")]
    post = guarded.client.post
    session = (await post("/api/v1/open_inference_session", headers=ann)).json()["session_id"]
    stranger = await post(GENERATE, json={**FIELDS, "session_id": session}, headers=bob)
    assert stranger.json() == {
        "ok": False,
        "traceback": f"KeyError: \"Session '{session}' expired or does not exist\"",
    }
    # nor does a stranger close it
    await post("/api/v1/close_inference_session", json={"session_id": session}, headers=bob)
    with pytest.raises(httpx.ReadTimeout):  # it waits for a worker: it is accepted
        await post(GENERATE, json={**FIELDS, "session_id": session}, headers=ann, timeout=0.3)


async def test_a_job_is_no_credential(guarded: Served, keys: ApiKeys, player: Player) -> None:
    ann, bob = [bearer(await keys.create(name, ("generate",))) for name in ("ann", "bob")]
    client = guarded.client
    async with player.playing(" a"):
        id = (await client.post("/v1/completions", json=PROMPT, headers=ann)).json()["id"]
    assert (await client.get(f"/v1/jobs/{id}", headers=ann)).status_code == 200
    calls = [("GET", f"/v1/jobs/{id}"), ("DELETE", f"/v1/jobs/{id}"), ("GET", f"/v1/jobs/{id}/stream")]
    answers = [await client.request(method, path, headers=bob) for method, path in calls]
    answers.append(await client.post("/v1/cancel", json={"id": id}, headers=bob))
    assert [answer.status_code for answer in answers] == [404] * 4


async def test_an_idempotency_key_is_its_accounts(guarded: Served, keys: ApiKeys, player: Player) -> None:
    ids = []
    async with player.playing(" a"):
        for name in ("ann", "bob"):
            headers = {**bearer(await keys.create(name, ("generate",))), "idempotency-key": "one"}
            for _ in range(2):
                ids.append((await guarded.client.post("/v1/completions", json=PROMPT, headers=headers)).json()["id"])
    assert (ids[0] == ids[1], ids[2] == ids[3], ids[0] == ids[2]) == (True, True, False)


async def test_a_stream_is_resumed_by_its_account_alone(guarded: Served, keys: ApiKeys, player: Player) -> None:
    ann, bob = [await keys.create(name, ("generate",)) for name in ("ann", "bob")]
    job = "ab" * 16
    async with dialogue(guarded, ann) as socket:
        session = (await socket.open(max_length=99, resumable=True))["session_id"]
        await socket.send({"type": "generate", "inputs": "hi", "max_new_tokens": 2, "job_id": job})
        performance = await player.take()
        await socket.socket.close(4000)
    # a stranger gets neither the session, nor the job in a session of its own
    async with dialogue(guarded, bob) as socket:
        await socket.send({"type": "resume", "session_id": session, "job_id": job, "after": 0})
        assert "expired or does not exist" in (await socket.receive())["traceback"]
    async with dialogue(guarded, bob) as socket:
        own = (await socket.open(max_length=99, resumable=True))["session_id"]
        await socket.send({"type": "generate", "inputs": "hi", "max_new_tokens": 2, "job_id": job})
        assert "The job's id is taken" in (await socket.receive())["traceback"]
    async with dialogue(guarded, bob) as socket:
        await socket.send({"type": "resume", "session_id": own, "job_id": job, "after": 0})
        assert not (await socket.receive())["ok"]
    # but whose it is does
    async with dialogue(guarded, ann) as socket:
        await socket.send({"type": "resume", "session_id": session, "job_id": job, "after": 0, "max_new_tokens": 2})
        await performance.finish("a", "b")
        assert (await socket.receive())["outputs"] == "ab"


async def test_files_and_batches_are_their_accounts(guarded: Served, keys: ApiKeys) -> None:
    ann, bob = [bearer(await keys.create(name, ("batches",))) for name in ("ann", "bob")]
    client = guarded.client
    upload = {"files": {"file": ("a.jsonl", LINE)}, "data": {"purpose": "batch"}}
    file = (await client.post("/v1/files", headers=ann, **upload)).json()["id"]  # type: ignore[arg-type]
    asked = {"input_file_id": file, "endpoint": "/v1/completions"}
    batch = (await client.post("/v1/batches", json=asked, headers=ann)).json()["id"]
    for headers, expected in ((ann, [1, 200, 200, 1, 200]), (bob, [0, 404, 404, 0, 404])):
        assert [
            len((await client.get("/v1/files", headers=headers)).json()["data"]),
            (await client.get(f"/v1/files/{file}", headers=headers)).status_code,
            (await client.get(f"/v1/files/{file}/content", headers=headers)).status_code,
            len((await client.get("/v1/batches", headers=headers)).json()["data"]),
            (await client.get(f"/v1/batches/{batch}", headers=headers)).status_code,
        ] == expected
    assert (await client.post("/v1/batches", json=asked, headers=bob)).status_code == 404
    assert (await client.post(f"/v1/batches/{batch}/cancel", headers=bob)).status_code == 404
    assert (await client.delete(f"/v1/files/{file}", headers=bob)).status_code == 404
    assert (await client.delete(f"/v1/files/{file}", headers=ann)).status_code == 200


async def test_each_key_has_a_rate_of_its_own(serve: Serve, keys: ApiKeys, player: Player) -> None:
    ann, bob = [bearer(await keys.create(name, ("generate",))) for name in ("ann", "bob")]
    async with serve(auth="on", key_pepper=PEPPER, requests_per_min=2) as gateway, player.playing(" a"):
        post = gateway.client.post
        # neither a user's name nor the other API has a rate of its own
        assert (await post("/v1/completions", json={**PROMPT, "user": "u"}, headers=ann)).status_code == 200
        assert (await post(GENERATE, data=FIELDS, headers=ann)).status_code == 200
        openai, petals = [
            await post("/v1/completions", json=PROMPT, headers=ann),
            await post(GENERATE, data=FIELDS, headers=ann),
        ]
        assert (await post(GENERATE, data=FIELDS, headers=bob)).status_code == 200
    assert (openai.status_code, petals.status_code) == (429, 429)
    assert 20 <= int(openai.headers["retry-after"]) <= 36
    assert openai.json()["error"]["code"] == "rate_limit_exceeded"
    text = "You have used up what you may ask for in a minute, please try again later"
    assert petals.json() == {"ok": False, "traceback": f"RuntimeError: {text}"}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": ["a", "b"]}),
        ("/v1/completions", {"prompt": [[1], [2]], "echo": True}),
        ("/v1/embeddings", {"input": ["a", "b"]}),
    ],
)
async def test_all_prompts_of_a_request_are_let_in_or_none(
    serve: Serve, player: Player, valkey: Valkey, path: str, fields: dict[str, Any]
) -> None:
    client, rate = valkey.client, "{p}:rate:requests:127.0.0.1"
    async with serve(requests_per_min=3) as gateway, player.playing(" a"):
        # given a request of two prompts
        assert (await gateway.client.post(path, json=fields)).status_code == 200
        before, jobs = client.get(rate), set(client.scan_iter("*job:*"))
        # when there is another one
        refused = await gateway.client.post(path, json=fields)
        # then it leaves nothing behind
        assert (refused.status_code, client.get(rate)) == (429, before)
        assert set(client.scan_iter("*job:*")) == jobs
        # and it is let in when it was told to
        client.incrbyfloat(rate, -20_000)
        assert (await gateway.client.post(path, json=fields)).status_code == 200


@pytest.mark.parametrize(("path", "field"), [("/v1/completions", "prompt"), ("/v1/embeddings", "input")])
async def test_more_prompts_than_a_minute_lets_in(serve: Serve, path: str, field: str) -> None:
    async with serve(requests_per_min=3) as gateway:
        answer = await gateway.client.post(path, json={field: ["a"] * 4})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", field)
    assert error["message"] == f"`{field}` must hold 1 to 3 texts, but holds 4"


async def test_without_keys_an_address_has_a_rate(serve: Serve, player: Player) -> None:
    async with serve(tokens_per_min=1) as gateway, player.playing(" a", " b"):
        statuses = [(await gateway.client.post(GENERATE, data=FIELDS)).status_code for _ in range(2)]
    assert statuses == [200, 429]


@pytest.mark.parametrize(
    ("environ", "needed"),
    [
        ({}, False),
        ({"COROLLA_BIND": "[::1]:80"}, False),
        ({"COROLLA_BIND": "localhost:80"}, False),
        ({"COROLLA_BIND": "0.0.0.0:80", "COROLLA_KEY_PEPPER": PEPPER}, True),
        ({"COROLLA_BIND": "example.com:80", "COROLLA_KEY_PEPPER": PEPPER}, True),
        ({"COROLLA_AUTH": "on", "COROLLA_KEY_PEPPER": PEPPER}, True),
        ({"COROLLA_BIND": "0.0.0.0:80", "COROLLA_AUTH": "off"}, False),
    ],
)
def test_when_keys_are_needed(environ: dict[str, str], needed: bool) -> None:
    assert read(Settings, environ).needs_keys is needed


@pytest.mark.parametrize("environ", [{"COROLLA_BIND": "[::]:80"}, {"COROLLA_AUTH": "on"}])
def test_without_a_pepper_such_a_gateway_does_not_start(environ: dict[str, str]) -> None:
    with pytest.raises(SettingError, match="COROLLA_KEY_PEPPER is not set"):
        read(Settings, environ)


@pytest.mark.parametrize(("proxies", "second"), [("", 429), ("127.0.0.1", 200)])
async def test_only_a_named_proxy_says_whose_request_it_is(
    serve: Serve, player: Player, proxies: str, second: int
) -> None:
    async with serve(requests_per_min=1, trusted_proxies=proxies) as gateway, player.playing(" a"):
        for address, status in (("192.0.2.1", 200), ("192.0.2.2", second)):
            answer = await gateway.client.post(GENERATE, data=FIELDS, headers={"x-forwarded-for": address})
            assert answer.status_code == status
