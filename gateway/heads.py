"""Bounds on a request's head, which must be sent in time and of sensible size, and on who takes no answer."""

import asyncio
from http import HTTPStatus
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.bodies import DUE, REQUEST_TIMEOUT_S
from gateway.progress import Watched

HEAD_TIMEOUT_S = 10.0
MAX_HEAD_BYTES = 64 << 10
# Requests that may wait on a connection while an earlier one is being answered.
MAX_PIPELINED = 16
# A client that is still sending may not hear an answer before it is done. So what its answer did not wait for is read
# on and thrown away, as long as so much of it comes in this time.
WASTE_TIMEOUT_S = 10.0
MIN_WASTE_BYTES = 10 << 10
_TOO_LARGE = "The request's headers are too large."


class BoundedHeads(Watched, HttpToolsProtocol):
    """uvicorn's HTTP protocol, which sets no such bounds."""

    _timer: asyncio.TimerHandle | None = None
    _part = ""  # of a request, that is being read: "head", "body", or none
    _head_bytes = 0  # but those that came at once with the end of what was before
    _new_bytes = 0  # that came at once, where the first of them is not the rest of something
    _waste_bytes = 0
    _connected_at: float | None = None  # until the first request comes
    _answered: RequestResponseCycle | None = None  # the request that is, or was the last to be

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client may send a head."""
        super().connection_made(transport)
        self._connected_at = self.loop.time()
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_timer()
        super().connection_lost(exc)
        if self._answered and self._is_answering():
            # uvicorn tells only the last request that came, which may be another one.
            self._answered.disconnected = True
            self._answered.message_event.set()

    def timeout_keep_alive_handler(self) -> None:
        """No further request came."""
        self._close()

    def data_received(self, data: bytes) -> None:
        """A part of a head or a body."""
        self._new_bytes = 0 if self._part else len(data)
        self._head_bytes += len(data)
        super().data_received(data)
        if self._part == "head" and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _TOO_LARGE)

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        super().on_message_begin()
        self._part, self._head_bytes, self._new_bytes = "head", self._new_bytes, 0
        began_at = self.loop.time() if self._connected_at is None else self._connected_at
        self._connected_at = None
        self.scope[DUE] = began_at + REQUEST_TIMEOUT_S  # type: ignore[literal-required]

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._part = "body"
        self._stop_timer()
        super().on_headers_complete()
        if not self.pipeline:
            self._answered = self.cycle
        elif len(self.pipeline) > MAX_PIPELINED:
            raise ValueError("too many requests wait")  # the parser stops, and the client is told that this is wrong

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        super().on_body(body)
        self._waste_bytes += len(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        super().on_message_complete()
        self._part = ""
        self._expect()

    def on_response_complete(self) -> None:
        """The next request's turn, if it has come already."""
        if self.pipeline:
            self._answered = self.pipeline[-1][0]
            # Nothing was read while it waited.
            self._answered.scope[DUE] = self.loop.time() + REQUEST_TIMEOUT_S  # type: ignore[literal-required]
        super().on_response_complete()
        self._expect()

    def handle_websocket_upgrade(self) -> None:
        """The head is that of a WebSocket, which has bounds of its own, and no body."""
        self._stop_timer()
        self._progress.rest()
        if self._is_answering():
            self._refuse(HTTPStatus.BAD_REQUEST, "")
            return
        super().handle_websocket_upgrade()
        upgraded = cast(WebSocketsSansIOProtocol, self.transport.get_protocol())
        if not upgraded.handshake_initiated:
            # uvicorn does not look for this, and would neither answer nor close.
            self.connections.discard(upgraded)
            self.connections.add(self)
            self.transport.set_protocol(self)
            self._pass_on(b"".join(upgraded.conn.data_to_send()))

    def send_400_response(self, msg: str) -> None:
        """What was sent is no HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """Answer, unless that would become part of another answer, and close."""
        self._stop_timer()
        if not self._is_answering():
            head = f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n"
            head += f"content-length: {len(text)}\r\nconnection: close\r\n\r\n"
            self.transport.write((head + text).encode())
        self._close()

    def _pass_on(self, refusal: bytes) -> None:
        """Answer with what the WebSocket's protocol would say of a handshake, or in our words where it says nothing."""
        if refusal:
            self.transport.write(refusal)
            self._close()
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "This is no WebSocket handshake.")

    def _is_answering(self) -> bool:
        return self._answered is not None and not self._answered.response_complete

    def _expect(self) -> None:
        """Begin to wait for what is to come, unless that waits for an answer."""
        self._stop_timer()
        if self._is_answering():
            return
        if self.transport.is_closing():
            self._progress.watch()
        elif self._part == "body":
            self._waste_bytes = 0
            self._timer = self.loop.call_later(WASTE_TIMEOUT_S, self._close_where_slow)
        else:
            self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._close)

    def _close_where_slow(self) -> None:
        if self._waste_bytes < MIN_WASTE_BYTES:
            self._close()
        else:
            self._expect()

    def _close(self) -> None:
        """Close once the client has taken what waits for it, as long as it does."""
        self._progress.watch()
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
