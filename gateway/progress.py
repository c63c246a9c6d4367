"""Whether a client still takes what it is sent: one that does not is left."""

import asyncio
import socket
import struct
import sys
from typing import cast

# A client that takes nothing for this long, while something waits for it, is gone.
STALL_TIMEOUT_S = 30.0
# This process itself stood still where it looks later than by this part of that: then nothing could be sent either.
_LATE = 1 / 20
# What a connection holds for its client; beyond that, who sends more waits. The system holds more: see server.py.
HELD_BYTES = 16 << 10
# Of Linux' struct tcp_info: tcpi_unacked, tcpi_bytes_acked and tcpi_notsent_bytes.
_TCP_INFO = struct.Struct("=24xI92xQ16xI")
_NO_LINGER = struct.pack("ii", 1, 0)


class Progress:
    """Breaks a connection that has been stalled for STALL_TIMEOUT_S.

    What counts is what arrives at the client's machine: a slow one may well take longer until a buffer has room again.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._socket: socket.socket = transport.get_extra_info("socket")
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        transport.set_write_buffer_limits(HELD_BYTES)

    def waits(self) -> bool:
        """Whether the client's machine has yet to take something."""
        return self._look()[0]

    def watch(self) -> None:
        """See to what waits to be sent, if anything does."""
        waits, taken = self._look()
        if waits and self._timer is None:
            due = self._loop.time() + STALL_TIMEOUT_S
            self._timer = self._loop.call_at(due, self._compare, taken, due)

    def rest(self) -> None:
        """What waited has been sent, or nobody is there."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _compare(self, before: int, due: float) -> None:
        self._timer = None
        waits, taken = self._look()
        was_awake = self._loop.time() - due <= _LATE * STALL_TIMEOUT_S
        if waits and taken == before and was_awake:
            # By a reset: else the system would keep what it has for the client, and go on offering it.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self._transport.abort()
        else:
            self.watch()

    def _look(self) -> tuple[bool, int]:
        """Whether anything waits, and a number that grows with what the client's machine has acknowledged."""
        held = self._transport.get_write_buffer_size()
        if not held and self._transport.is_closing():
            return False, 0
        if sys.platform != "linux":
            return held > 0, -held
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        unacknowledged, taken, unsent = _TCP_INFO.unpack(info)
        return bool(held or unacknowledged or unsent), taken


class Watched(asyncio.Protocol):
    """Goes before a protocol of uvicorn, which waits for ever for a client that takes nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        super().connection_made(transport)
        self._progress = Progress(cast(asyncio.Transport, transport), asyncio.get_running_loop())

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
