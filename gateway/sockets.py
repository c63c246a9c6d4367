"""Bounds on how long a WebSocket waits for a client that takes nothing."""

import asyncio
from asyncio.transports import BaseTransport

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.progress import Progress


class BoundedSockets(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which waits for ever."""

    def connection_made(self, transport: BaseTransport) -> None:
        """A handshake has come."""
        super().connection_made(transport)
        self._progress = Progress(self.transport, self.loop)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._progress.rest()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """More waits to be sent than is good."""
        super().pause_writing()
        self._progress.watch()

    def resume_writing(self) -> None:
        """The client took it."""
        self._progress.rest()
        super().resume_writing()

    def keepalive_timeout(self) -> None:
        """No pong came: where anything waits to be sent, the ping may not have arrived yet."""
        if self._progress.waits():
            self._progress.watch()
            self.pong_timer = self.pending_ping_payload = None
            self.schedule_ping()
        else:
            super().keepalive_timeout()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """The dialogue is over; what was said last may still wait."""
        super().on_task_complete(task)
        self._progress.watch()
