"""A WebSocket's end: where its client takes nothing, or sends what is none of the protocol."""

import asyncio

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from gateway.progress import Watched


class BoundedSockets(Watched, WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which waits for ever, and calls it a mistake to answer whom it has just left."""

    def data_received(self, data: bytes) -> None:
        """Frames, or parts of them."""
        try:
            super().data_received(data)
        except InvalidState:
            # Text that was no UTF-8, and a close right behind it: that has been answered already.
            self.disconnected = True
            self.transport.close()

    def keepalive_timeout(self) -> None:
        """No pong came: where anything waits to be sent, the ping may not have arrived yet."""
        if self._progress.waits():
            self._progress.watch()
            self.pong_timer = self.pending_ping_payload = None
            self.schedule_ping()
        else:
            super().keepalive_timeout()
            self.disconnected = True

    def handle_parser_exception(self) -> None:
        """What came is none of the protocol."""
        super().handle_parser_exception()
        self.disconnected = True

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """The dialogue is over; what was said last may still wait."""
        super().on_task_complete(task)
        self._progress.watch()
