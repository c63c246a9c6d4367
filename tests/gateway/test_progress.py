"""Clients that take what they are sent slowly, or not at all, over real sockets with small buffers."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from websockets.asyncio.client import connect

from gateway.progress import Progress
from tests.dialogue import Dialogue
from tests.gateway.conftest import Serve, Served
from tests.gateway.player import Performance, Player
from tests.waiting import until_async

pytestmark = pytest.mark.anyio

STALL_S = 0.5
PAUSE_S = 0.05
WORD = "x" * 2000
STREAM = {"inputs": "hi", "max_new_tokens": 1, "stop_sequence": "###"}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.progress.STALL_TIMEOUT_S", STALL_S)
    monkeypatch.setattr("gateway.server.SEND_BUFFER_BYTES", 4096)


@contextlib.asynccontextmanager
async def plug(gateway: Served) -> AsyncIterator[socket.socket]:
    """A connection with a small buffer."""
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, ("127.0.0.1", gateway.client.base_url.port))
        yield opened


@contextlib.asynccontextmanager
async def websocket(gateway: Served, plugged: socket.socket) -> AsyncIterator[Dialogue]:
    """A dialogue whose client holds as little as it can."""
    async with connect(gateway.ws_url, sock=plugged, max_queue=1, ping_interval=None) as opened:
        yield Dialogue(opened)


def request(path: str, content: object | None = None) -> bytes:
    """A request whose connection is closed when it has been answered."""
    body = b"" if content is None else json.dumps(content).encode()
    method = "GET" if content is None else "POST"
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def say_much(performance: Performance) -> None:
    """More than all buffers on the way hold."""
    for _ in range(100):
        await performance.say(WORD)


def is_reset(plugged: socket.socket) -> bool:
    """Whether the other side broke the connection."""
    return plugged.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


async def test_who_takes_nothing_of_a_stream_is_gone(gateway: Served, player: Player) -> None:
    async with plug(gateway) as plugged:
        plugged.send(request("/v1/completions", {"prompt": "hi", "stream": True}))
        performance = await player.take()
        await say_much(performance)
        await performance.until_cancelled()
        assert is_reset(plugged)


async def test_who_takes_nothing_of_a_file_is_gone(serve: Serve, tmp_path: Path) -> None:
    async with serve(files=tmp_path) as gateway:
        form = {"files": {"file": ("a", b"x" * 1_000_000)}, "data": {"purpose": "batch"}}
        file = (await gateway.client.post("/v1/files", **form)).json()["id"]  # type: ignore[arg-type]
        async with plug(gateway) as plugged:
            plugged.send(request(f"/v1/files/{file}/content"))
            await until_async(lambda: is_reset(plugged))


@pytest.mark.parametrize("keeps", [True, False])
async def test_who_takes_nothing_of_a_plain_answer_is_gone(
    serve: Serve, player: Player, monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    monkeypatch.setattr("uvicorn.config.Config.timeout_keep_alive", 0.1, raising=False)
    async with serve() as gateway, player.playing(*[WORD] * 15), plug(gateway) as plugged:
        asked = request("/v1/completions", {"prompt": "hi"})
        plugged.send(asked.replace(b"Connection: close\r\n", b"") if keeps else asked)
        # given an answer of less than a connection holds back
        await until_async(lambda: is_reset(plugged))


async def test_who_takes_nothing_of_a_websocket_is_gone(gateway: Served, player: Player) -> None:
    async with plug(gateway) as plugged, websocket(gateway, plugged) as socket:
        await socket.open(max_length=64)
        await socket.send({"type": "generate", **STREAM})
        performance = await player.take()
        await say_much(performance)
        await performance.until_cancelled()


async def test_a_slow_reader_of_a_stream_is_not(gateway: Served, player: Player) -> None:
    async with plug(gateway) as plugged:
        plugged.send(request("/v1/completions", {"prompt": "hi", "stream": True}))
        performance = await player.take()
        saying = asyncio.create_task(say_much(performance))
        # when each of its steps is short, but what waits takes far longer than a stall may
        began, got = time.monotonic(), b""
        while chunk := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(plugged, 2048), 30):
            got += chunk
            await asyncio.sleep(PAUSE_S)
            if saying.done() and not performance.claim.log and got.count(WORD.encode()) == 99:
                await performance.finish("end")
        assert time.monotonic() - began > 6 * STALL_S
    assert got.count(WORD.encode()) == 100
    assert got.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_slow_reader_of_a_websocket_is_not(serve: Serve, player: Player) -> None:
    # given pings that cannot be answered while what was said before them waits
    async with serve(ping_s=0.2) as gateway, plug(gateway) as plugged, websocket(gateway, plugged) as socket:
        await socket.open(max_length=64)
        await socket.send({"type": "generate", **STREAM})
        performance = await player.take()
        await say_much(performance)
        await performance.finish("###")
        got = []
        async for reply in socket.replies():
            got.append(reply["outputs"])
            await asyncio.sleep(PAUSE_S)
    assert got == [WORD] * 100 + ["###"]


async def test_what_a_process_slept_through_is_no_stall() -> None:
    # given a client that takes nothing for now
    loop = asyncio.get_running_loop()
    accepted: asyncio.Queue[asyncio.Transport] = asyncio.Queue()
    async with await loop.create_server(lambda: Accepting(accepted), "127.0.0.1", 0) as server:
        with socket.create_connection(server.sockets[0].getsockname()):
            transport = await accepted.get()
            transport.write(b"x" * 10_000_000)
            held = -1
            while held != (held := transport.get_write_buffer_size()):
                await asyncio.sleep(PAUSE_S)
            # when the process sleeps for longer than it may
            Progress(transport, loop).watch()
            looked = asyncio.Event()
            loop.call_later(STALL_S, looked.set)
            loop.call_soon(time.sleep, 1.5 * STALL_S)
            # then nothing follows from that
            await looked.wait()
            assert not transport.is_closing()
            # but it does where the client goes on like this
            await until_async(transport.is_closing)


class Accepting(asyncio.Protocol):
    """Hands its connection on."""

    def __init__(self, accepted: asyncio.Queue[asyncio.Transport]) -> None:
        self._accepted = accepted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._accepted.put_nowait(cast(asyncio.Transport, transport))
