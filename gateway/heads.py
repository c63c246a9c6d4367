"""Bounds on a request's head: a client must send it in time, and it must be of sensible size."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_TIMEOUT_S = 10.0
MAX_HEAD_BYTES = 64 << 10


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which sets neither bound."""

    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client may send a head."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A part of a head or a body."""
        if self._timer is not None and self._head_bytes > MAX_HEAD_BYTES:
            self._stop_timer()
            self.send_400_response("The request's headers are too large.")
            return
        self._head_bytes += len(data)
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._stop_timer()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The next head may come, if it has not come already."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._expect_head()

    def _expect_head(self) -> None:
        self._stop_timer()
        self._head_bytes = 0
        self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
