"""WebSocket frames that no proper client sends (RFC 6455, 5 to 8): the right close code, and a gateway unharmed."""

import asyncio
import base64
import contextlib
import json
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.conftest import CATALOG, FULL, SEED, Tell
from tests.services import Gateway
from tests.valkey import Valkey

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

RANDOM_CASES = 20_000 if FULL else 300
AT_ONCE = 20
PATIENCE_S = 10.0
# How long a gateway may be silent before it is taken to wait for the rest of a frame.
QUIET_S = 0.3
MAX_FRAME_BYTES = 1 << 20
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
# What may come of anything at all: never 1011, which is an error of the server's own.
CODES = {1000, 1001, 1002, 1003, 1007, 1009}
OPEN = {"type": "open_inference_session", "max_length": 99}
GENERATE = {"type": "generate", "inputs": "private", "max_new_tokens": 1}
Frame = tuple[int, bytes]


def frame(opcode: int, payload: bytes = b"", fin: bool = True, rsv: int = 0, mask: bool = True) -> bytes:
    """A frame, proper or not."""
    return bytes([fin << 7 | rsv << 4 | opcode]) + length_of(len(payload), mask) + masked(payload, mask)


def length_of(length: int, mask: bool = True) -> bytes:
    """A payload's length in as few bytes as it takes."""
    if length < 126:
        return bytes([mask << 7 | length])
    if length < 1 << 16:
        return struct.pack("!BH", mask << 7 | 126, length)
    return struct.pack("!BQ", mask << 7 | 127, length)


def masked(payload: bytes, mask: bool = True) -> bytes:
    key = b"\x01\x02\x03\x04"
    return key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload)) if mask else payload


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


def message(content: object) -> bytes:
    return frame(TEXT, json.dumps(content).encode())


def read_frames(raw: bytes) -> Iterator[Frame]:
    """The server's frames in these bytes."""
    while raw:
        size, at = raw[1], 2
        if size == 126:
            size, at = struct.unpack_from("!H", raw, 2)[0], 4
        elif size == 127:
            size, at = struct.unpack_from("!Q", raw, 2)[0], 10
        yield raw[0] & 15, raw[at : at + size]
        raw = raw[at + size :]


def close_code(frames: list[Frame]) -> int | None:
    """That of the last frame; None where it closes nothing, or says not why."""
    if not frames or frames[-1][0] != CLOSE or not frames[-1][1]:
        return None
    return int(struct.unpack_from("!H", frames[-1][1])[0])


class Plug:
    """A connection after the handshake; who sends to one that was broken is told when it reads, not before."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._loop = asyncio.get_running_loop()
        self.heard = b""

    async def send(self, raw: bytes) -> None:
        with contextlib.suppress(OSError):
            await self._loop.sock_sendall(self._socket, raw)

    async def hear(self) -> bool:
        """Read more; False where there is none. A close is answered: some wait for that."""
        try:
            chunk = await self._loop.sock_recv(self._socket, 1 << 16)
        except OSError:
            return False
        self.heard += chunk
        if self.code is not None:
            await self.send(frame(CLOSE))
        return bool(chunk)

    def leave(self) -> None:
        """Send nothing more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    @property
    def frames(self) -> list[Frame]:
        return list(read_frames(self.heard))

    @property
    def code(self) -> int | None:
        return close_code(self.frames)


@contextlib.asynccontextmanager
async def plug(gateway: Gateway) -> AsyncIterator[Plug]:
    """A connection, and a time limit."""
    loop = asyncio.get_running_loop()
    head = "GET /api/v2/generate HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    head += f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n\r\n"
    with socket.socket() as opened:
        opened.setblocking(False)
        async with asyncio.timeout(PATIENCE_S):
            await loop.sock_connect(opened, ("127.0.0.1", gateway.port))
            await loop.sock_sendall(opened, head.encode())
            # nothing follows the handshake before the client has said something
            assert (await loop.sock_recv(opened, 1 << 16)).startswith(b"HTTP/1.1 101 ")
            yield Plug(opened)


async def answer(gateway: Gateway, raw: bytes) -> list[Frame]:
    """What a gateway says to these bytes until it closes."""
    async with plug(gateway) as plugged:
        await plugged.send(raw)
        while await plugged.hear():
            pass
    return plugged.frames


@pytest.fixture(scope="module")
def gateway(_valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway of its own, without a worker, which logs all it can."""
    folder: Path = tmp_path_factory.mktemp("frames")
    catalog = folder / "catalog.toml"
    catalog.write_text(CATALOG.format(step_ms=20))
    gateway = Gateway(folder / "gateway.log", _valkey.url, catalog, log_level="debug", deadline_s=2)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.kill()


PROPER = message(OPEN)
WRONG = {
    **{f"opcode {opcode}": (frame(opcode), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    **{f"reserved bits {rsv}": (frame(TEXT, b"{}", rsv=rsv), 1002) for rsv in range(1, 8)},
    "unmasked": (frame(TEXT, b"{}", mask=False), 1002),
    "unmasked ping": (frame(PING, mask=False), 1002),
    "long ping": (frame(PING, b"x" * 126), 1002),
    "long close": (frame(CLOSE, struct.pack("!H", 1000) + b"x" * 124), 1002),
    "ping in parts": (frame(PING, b"x", fin=False), 1002),
    "close in parts": (frame(CLOSE, struct.pack("!H", 1000), fin=False), 1002),
    "rest without a beginning": (frame(CONT, b"{}"), 1002),
    "message within another": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002),
    "half a close code": (frame(CLOSE, b"\x03"), 1002),
    **{f"close code {code}": (close(code), 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)},
    "close reason that is no UTF-8": (close(1000, b"\xff"), 1007),
    "text that is no UTF-8": (frame(TEXT, b"\xc3\x28"), 1007),
    "text that ends in mid-character": (frame(TEXT, "é".encode()[:1]), 1007),
    "text in parts that is no UTF-8": (frame(TEXT, b"\xc3", fin=False) + frame(CONT, b"\x28"), 1007),
    "surrogates": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "length over the limit": (bytes([128 | TEXT]) + length_of(MAX_FRAME_BYTES + 1), 1009),
    "length of 63 bits": (bytes([128 | BINARY, 255]) + b"\x7f" + b"\xff" * 7, 1009),
    "parts over the limit": (
        frame(TEXT, b"x" * MAX_FRAME_BYTES, fin=False) + bytes([128 | CONT]) + length_of(1),
        1009,
    ),
    "text that is no JSON": (frame(TEXT, b"private"), 1000),
    "bytes that are no JSON": (frame(BINARY, b"\xff\x00"), 1000),
    "empty text": (frame(TEXT), 1000),
    "deep JSON": (frame(TEXT, b"[" * 100_000), 1000),
    "generate without a session": (message(GENERATE), 1000),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("after", [b"", PROPER], ids=["first", "later"])
async def test_a_wrong_frame_is_told_by_its_close_code(gateway: Gateway, name: str, after: bytes) -> None:
    raw, code = WRONG[name]
    frames = await answer(gateway, after + raw)
    assert close_code(frames) == code


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
async def test_a_proper_close_is_echoed(gateway: Gateway, code: int) -> None:
    assert await answer(gateway, close(code, "é".encode())) == [(CLOSE, struct.pack("!H", code) + "é".encode())]


async def test_a_close_without_a_code(gateway: Gateway) -> None:
    assert await answer(gateway, frame(CLOSE)) == [(CLOSE, b"")]


async def test_a_message_in_many_parts_with_pings_between(gateway: Gateway) -> None:
    whole = json.dumps(OPEN).encode()
    parts = [frame(CONT if at else TEXT, whole[at : at + 1], fin=False) + frame(PING, b"p") for at in range(len(whole))]
    frames = await answer(gateway, b"".join(parts) + frame(CONT) + message({}))
    assert frames[: len(whole)] == [(PONG, b"p")] * len(whole)
    assert [json.loads(text)["ok"] for _, text in frames[len(whole) : -1]] == [True, False]
    assert close_code(frames) == 1000


async def test_a_text_that_is_no_utf8_and_a_close_at_once(gateway: Gateway) -> None:
    await answer(gateway, frame(TEXT, b"\xff") + close(1000))
    assert [line for line in gateway.lines() if line["level"] == "error"] == []


def garble(dice: random.Random) -> bytes:
    """Some frames, most of them proper, of which bytes were changed, left out or added."""
    payloads = [json.dumps(OPEN).encode(), json.dumps(GENERATE).encode(), b"{}", b"", dice.randbytes(20)]
    raw = b"".join(
        frame(
            dice.choice([TEXT] * 8 + [BINARY, CONT, PING, PONG, CLOSE, dice.randrange(16)]),
            dice.choice(payloads)[: dice.choice([5, 120, 1000, 1000])],
            fin=dice.random() < 0.95,
            rsv=dice.choice([0] * 40 + [dice.randrange(8)]),
            mask=dice.random() < 0.99,
        )
        for _ in range(dice.randrange(1, 6))
    )
    changed = bytearray(raw)
    for _ in range(dice.choice([0, 0, 0, 1, 3])):
        at = dice.randrange(len(changed))
        changed[at : at + dice.randrange(2)] = dice.randbytes(dice.randrange(3))
    return bytes(changed)


async def try_out(gateway: Gateway, raw: bytes, cut: int) -> int | None:
    """The close code that comes of it; None where the gateway waits for more, and lets the client go."""
    async with plug(gateway) as plugged:
        await plugged.send(raw[:cut])
        await plugged.send(raw[cut:])
        with contextlib.suppress(TimeoutError):
            while await asyncio.wait_for(plugged.hear(), QUIET_S):
                pass
        plugged.leave()
        while await plugged.hear():
            pass
    return plugged.code


async def test_whatever_is_sent_does_no_harm(gateway: Gateway, tell: Tell) -> None:
    dice = random.Random(SEED)
    cases = [garble(dice) for _ in range(RANDOM_CASES)]
    room, codes = asyncio.Semaphore(AT_ONCE), dict.fromkeys([None, *sorted(CODES)], 0)

    async def attempt(raw: bytes) -> None:
        async with room:
            code = await try_out(gateway, raw, len(raw) // 2)
        echoed = code is not None and 3000 <= code < 5000
        assert code is None or code in CODES or echoed, f"{code} for {raw.hex()}"
        codes[1000 if echoed else code] += 1

    before = len(gateway.lines())
    await asyncio.gather(*map(attempt, cases))
    tell(f"seed {SEED}, sockets by close code: {codes}")
    # neither are the cases too tame, nor are all of them too wild to be read at all
    assert codes[1002] > RANDOM_CASES / 10
    assert codes[1000] > RANDOM_CASES / 10
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{gateway.url}/health/live")).json() == {"ok": True}
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]  # so there is no traceback
    assert {line["level"] for line in lines[before:]} <= {"debug", "info"}
    assert "private" not in gateway.log.read_text()
