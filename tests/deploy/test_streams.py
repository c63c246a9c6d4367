"""The trial's readers: what they put up with, and what they tell of."""

import asyncio
import contextlib
import http.server
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from deploy import streams
from deploy.streams import Reader, Seen, WrongError
from tests.waiting import until_async

pytestmark = pytest.mark.anyio

Answer = tuple[int, dict[str, str]]
LATER: Answer = (503, {"Retry-After": "1"})
REPLY = {"ok": True, "outputs": "abc"}


@contextlib.contextmanager
def answering(*answers: Answer) -> Iterator[str]:
    """The address of a server that gives these answers, one after the other, and then good ones."""
    waiting = [*answers]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            status, headers = waiting.pop(0) if waiting else (200, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(json.dumps(REPLY).encode())

        def log_message(self, *_: Any) -> None:
            """Nothing of it."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.asynccontextmanager
async def closing(codes: Sequence[int]) -> AsyncIterator[str]:
    """The address of a gateway that ends its first connections with these codes, after the first of two tokens."""
    waiting = [*codes]

    async def talk(talking: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await _talk(talking, waiting.pop(0) if waiting else None)

    async with serve(talk, "127.0.0.1", 0) as server:
        (listener,) = server.sockets
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def _talk(talking: ServerConnection, code: int | None) -> None:
    first = json.loads(await talking.recv())
    seq = first.get("after", 0)
    if first["type"] != "resume":
        await talking.send(json.dumps({"ok": True, "session_id": "s"}))
        await talking.recv()
    token = {"ok": True, "job_id": "j", "token_count": 1}
    while seq < 2:
        seq += 1
        await talking.send(json.dumps({**token, "outputs": "ab"[seq - 1], "seq": seq, "stop": seq == 2}))
        if code:
            await talking.close(code)
            return
    await talking.wait_closed()


async def test_a_call_that_is_to_come_back_is_made_again_and_counted() -> None:
    seen = Seen()
    with answering(LATER, (429, {"retry-after": "1"})) as address:
        assert await Reader(address, seen).call("hi") == "abc"
    assert dict(seen.repeated) == {"HTTPError: HTTP Error 503: Service Unavailable": 1,
                                   "HTTPError: HTTP Error 429: Too Many Requests": 1}  # fmt: skip


@pytest.mark.parametrize("answer", [(500, {}), (502, {}), (404, {}), (503, {}), (500, {"Retry-After": "1"})])
async def test_any_other_error_is_none_that_a_client_should_see(answer: Answer) -> None:
    seen = Seen()
    with answering(answer) as address, pytest.raises(WrongError, match=f"the status is {answer[0]}"):
        await Reader(address, seen).call("hi")
    assert not seen.repeated


@pytest.mark.parametrize("codes", [[], [1012], [1001]])
async def test_an_answer_goes_on_where_the_gateway_is_restarted(codes: Sequence[int]) -> None:
    seen = Seen()
    async with closing(codes) as address:
        assert await Reader(address, seen).stream("hi") == "ab"
    assert (seen.resumed, seen.tokens, dict(seen.repeated)) == (len(codes), 2, {})


@pytest.mark.parametrize("code", [1000, 1011, 1013])
async def test_any_other_end_of_a_socket_is_an_error(code: int) -> None:
    async with closing([code]) as address:
        with pytest.raises(WrongError, match=f"the WebSocket was closed: .*{code}"):
            await Reader(address, Seen()).stream("hi")


async def test_a_socket_that_is_refused_may_be_told_when_to_come_back() -> None:
    # given a balancer that knows no gateway, and then one that breaks
    answers = [503, 500]

    def refuse(connection: ServerConnection, _: Request) -> Response:
        answer = connection.respond(answers.pop(0), "")
        if answer.status_code == 503:
            answer.headers["Retry-After"] = "1"
        return answer

    async def talk(_: ServerConnection) -> None:
        raise AssertionError

    seen = Seen()
    async with serve(talk, "127.0.0.1", 0, process_request=refuse) as server:
        (listener,) = server.sockets
        # then
        with pytest.raises(WrongError, match="the status is 500"):
            await Reader(f"127.0.0.1:{listener.getsockname()[1]}", seen).stream("hi")
    assert dict(seen.repeated) == {"InvalidStatus: server rejected WebSocket connection: HTTP 503": 1}


async def test_a_connection_that_is_not_answered_is_given_up_long_before_an_answer_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "CONNECT_S", 0.1)
    seen = Seen()
    # given an address whose queue of connections is full
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as server,
        socket.create_connection(server.getsockname()),
    ):
        reader = Reader(f"127.0.0.1:{server.getsockname()[1]}", seen)
        calling = asyncio.create_task(reader.call("hi"))
        await until_async(lambda: seen.repeated.total() > 1, timeout_s=20)
        calling.cancel()
        assert seen.repeated.keys() == {"URLError: <urlopen error timed out>"}
        # and the answer is given up in its own time
        monkeypatch.setattr(streams, "PATIENCE_S", 0.2)
        with pytest.raises(WrongError, match=r"no answer within 0\.2 s"):
            await reader.call("hi")
