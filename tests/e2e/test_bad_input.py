"""Bad input over the whole system: one clear error in the documented shape, and the service unharmed."""

import json
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.dialogue import dialogue
from tests.e2e.conftest import Stack
from worker.oracle_backend import text

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

LENGTHS = "You should set `max_length` or `max_new_tokens` (but not both)"


async def assert_unharmed(stack: Stack) -> None:
    """A correct request still gets its answer."""
    async with httpx.AsyncClient() as client:
        fields = {"inputs": "hi", "max_new_tokens": 3, "seed": 1}
        answer = await client.post(f"{stack.gateways[0].url}/api/v1/generate", json=fields)
    assert answer.json() == {"ok": True, "outputs": text(1, 0, 3)}


def assert_one_line(message: str) -> None:
    assert "\n" not in message
    assert "Traceback" not in message
    assert "/" not in message.replace("corolla/oracle", "")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"model": "nobody", "max_new_tokens": 1}, "KeyError: 'nobody'"),
        ({"inputs": "hi"}, f"ValueError: {LENGTHS}"),
        ({"inputs": "hi", "max_new_tokens": 1, "max_length": 9}, f"ValueError: {LENGTHS}"),
    ],
)
async def test_http_errors_that_clients_match(oracle: Stack, content: dict[str, Any], expected: str) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{oracle.gateways[0].url}/api/v1/generate", json=content)
    assert (answer.status_code, answer.json()) == (200, {"ok": False, "traceback": expected})


@pytest.mark.parametrize(
    "content",
    [
        {"inputs": 3, "max_new_tokens": 1},
        {"inputs": "hi", "max_new_tokens": "many"},
        {"inputs": "hi", "max_new_tokens": 0},
        {"inputs": "hi", "max_new_tokens": 1, "top_k": "4.5"},
        {"inputs": "hi", "max_new_tokens": 1, "temperature": ""},
        {"inputs": "hi", "max_new_tokens": 1, "do_sample": 1, "top_p": 7},
        {"inputs": "hi", "max_new_tokens": 10**9},
        {"inputs": "hi", "max_length": 1},
        {"inputs": "x" * 9000, "max_new_tokens": 1},
        {"inputs": "x" * 2 * 1024 * 1024, "max_new_tokens": 1},
        {"inputs": "hi", "max_new_tokens": 1, "session_id": "0" * 32},
        ["not", "an", "object"],
        b'{"inputs": "hi", ',
        b'{"inputs": "\xc3"}',
    ],
    ids=lambda content: str(content)[:40],
)
async def test_http_errors_are_one_line(oracle: Stack, content: Any) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    async with httpx.AsyncClient() as client:
        answer = await client.post(
            f"{oracle.gateways[0].url}/api/v1/generate", content=body, headers={"Content-Type": "application/json"}
        )
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    reply = answer.json()
    assert reply.keys() == {"ok", "traceback"}
    assert reply["ok"] is False
    assert_one_line(reply["traceback"])
    await assert_unharmed(oracle)


OPEN = {"type": "open_inference_session", "max_length": 64}


@pytest.mark.parametrize(
    "frames",
    [
        ["no json"],
        [b"\xc3"],
        ["[1, 2]"],
        [{"type": "generate", "inputs": "hi", "max_new_tokens": 1}],
        [{**OPEN, "model": "nobody"}],
        [{**OPEN, "max_length": "long"}],
        [{**OPEN, "max_length": 10**6}],
        [OPEN, OPEN],
        [OPEN, {"type": "generate", "inputs": 7, "max_new_tokens": 1}],
        [OPEN, {"type": "generate", "inputs": "hi", "max_new_tokens": 0}],
        [OPEN, {"type": "generate", "inputs": "hi", "max_new_tokens": 100}],
        [OPEN, {"type": "sing"}],
        [OPEN, {"type": "generate", "inputs": "x" * 300_000, "max_new_tokens": 1}],
    ],
    ids=lambda frames: str(frames)[:60],
)
async def test_socket_errors_are_one_line_and_a_close(oracle: Stack, frames: list[Any]) -> None:
    async with dialogue(oracle.gateways[0].ws_url) as socket:
        for frame in frames:
            await socket.send(frame)
        for _ in frames[1:]:
            assert (await socket.receive())["ok"] is True
        reply = await socket.receive()
        with pytest.raises(ConnectionClosed) as closed:
            await socket.receive()
    assert reply.keys() == {"ok", "traceback"}
    assert reply["ok"] is False
    assert_one_line(reply["traceback"])
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1000
    await assert_unharmed(oracle)


async def test_a_session_that_overflows_while_it_streams_delivers_all_that_fits(oracle: Stack) -> None:
    async with dialogue(oracle.gateways[0].ws_url) as socket:
        await socket.open(max_length=32)
        frame = {"inputs": "hi", "max_new_tokens": 1, "stop_sequence": "###", "seed": 3}
        replies = [reply async for reply in socket.generate(**frame)]
    # 32 positions hold the prompt (2 ids) and every new token but the last
    assert "".join(reply["outputs"] for reply in replies[:-1]) == text(3, 0, 31)
    assert replies[-1]["ok"] is False
    assert "Maximum length exceeded" in replies[-1]["traceback"]


async def test_a_call_that_overflows_delivers_nothing(oracle: Stack) -> None:
    async with dialogue(oracle.gateways[0].ws_url) as socket:
        await socket.open(max_length=32)
        replies = [reply async for reply in socket.generate(inputs="hi", max_new_tokens=32)]
    assert replies == [
        {
            "ok": False,
            "traceback": "ValueError: Maximum length exceeded: prefix 0 + current 33 exceeds pre-allocated maximum 32",
        }
    ]


def test_no_log_holds_a_traceback_or_a_prompt(oracle: Stack) -> None:
    for service in (*oracle.gateways, *oracle.workers):
        log = service.log.read_text()
        assert "Traceback" not in log
        assert "xxxxx" not in log
