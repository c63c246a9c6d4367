"""CORS, request ids and the last line of defence, around an application made for the test."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket
from structlog.testing import capture_logs

from gateway.errors import http_failure
from gateway.metrics import Metrics
from gateway.middleware import Cors, Requests

pytestmark = pytest.mark.anyio

ORIGIN = "https://page.example"


async def hello(_: Request) -> Response:
    return PlainTextResponse("hello")


async def broken(_: Request) -> Response:
    raise ZeroDivisionError("secret")


async def stopped(_: Request) -> Response:
    raise asyncio.CancelledError


async def broken_socket(websocket: WebSocket) -> None:
    await websocket.accept()
    raise ZeroDivisionError("secret")


def app(*origins: str) -> Starlette:
    return Starlette(
        routes=[
            Route("/hello", hello),
            Route("/broken", broken),
            Route("/stopped", stopped),
            WebSocketRoute("/socket", broken_socket),
        ],
        middleware=[Middleware(Cors, origins), Middleware(Requests, Metrics(()))],
        exception_handlers={HTTPException: http_failure},
    )


async def request(method: str, path: str, *origins: str, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app(*origins))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.request(method, path, headers=named)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/hello", 200), ("GET", "/nowhere", 404), ("PUT", "/hello", 405), ("GET", "/broken", 500)],
)
async def test_any_origin_is_echoed_on_every_answer(method: str, path: str, status: int) -> None:
    answer = await request(method, path, origin=ORIGIN)
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("path", ["/hello", "/nowhere"])
async def test_without_an_origin_any_is_allowed(path: str) -> None:
    answer = await request("GET", path)
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("path", ["/hello", "/nowhere"])
async def test_preflight(path: str) -> None:
    wanted = {"access_control_request_method": "PATCH", "access_control_request_headers": "x-one, content-type"}
    answer = await request("OPTIONS", path, origin=ORIGIN, **wanted)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
    assert answer.headers["access-control-allow-headers"] == "x-one, content-type"
    assert "Origin" in answer.headers["vary"]


async def test_an_operator_can_narrow_it() -> None:
    ours = await request("GET", "/hello", ORIGIN, origin=ORIGIN)
    other = await request("GET", "/hello", ORIGIN, origin="https://other.example")
    none = await request("GET", "/hello", ORIGIN)
    preflight = await request(
        "OPTIONS", "/hello", ORIGIN, origin="https://other.example", access_control_request_method="GET"
    )
    assert ours.headers["access-control-allow-origin"] == ORIGIN
    for answer in (other, none, preflight):
        assert "access-control-allow-origin" not in answer.headers
        assert "Origin" in answer.headers["vary"]


async def test_errors_have_the_documented_shape() -> None:
    answer = await request("GET", "/nowhere")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"ok": False, "traceback": "HTTPException: Not Found"}


async def test_a_request_keeps_its_id_or_gets_one() -> None:
    kept = await request("GET", "/hello", x_request_id="mine-1.2")
    made = [await request("GET", "/hello", **headers) for headers in ({}, {"x_request_id": "two words"})]
    assert kept.headers["x-request-id"] == "mine-1.2"
    assert [len(answer.headers["x-request-id"]) for answer in made] == [32, 32]


async def test_security_headers() -> None:
    headers = (await request("GET", "/nowhere")).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'; img-src 'self'")
    assert headers["x-content-type-options"] == "nosniff"


async def test_an_unforeseen_error_is_told_without_detail_and_logged_with_it() -> None:
    with capture_logs() as logs:
        answer = await request("GET", "/broken", x_request_id="mine")
    assert answer.status_code == 500
    assert answer.json() == {"ok": False, "traceback": "RuntimeError: Internal error; the request's id is mine"}
    assert [(line["event"], line["request"]) for line in logs] == [("unforeseen error", "mine"), ("request", "mine")]
    assert isinstance(logs[0]["exc_info"], ZeroDivisionError)


async def test_a_request_that_a_stopping_server_cuts_off() -> None:
    answer = await request("GET", "/stopped")
    assert answer.status_code == 503
    assert answer.json()["traceback"] == "RuntimeError: The server is being restarted, please try again later"
    assert answer.headers["retry-after"] == "2"


async def test_an_unforeseen_error_closes_a_socket() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/socket", "headers": [], "query_string": b"", "subprotocols": []}
    await app()(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert sent[1]["code"] == 1011


async def test_the_log_has_no_query_string() -> None:
    with capture_logs() as logs:
        await request("GET", "/hello?inputs=private", x_request_id="mine")
    ms = logs[0]["ms"]
    assert logs == [
        {
            "event": "request",
            "log_level": "info",
            "request": "mine",
            "method": "GET",
            "path": "/hello",
            "status": 200,
            "ms": ms,
        }
    ]
