"""uvicorn as the gateway runs it."""

import asyncio
import logging
import socket

import structlog
import uvicorn
from starlette.applications import Starlette

from gateway.drain import Drain
from gateway.heads import BoundedHeads
from gateway.settings import Settings
from gateway.sockets import BoundedSockets

# How long answers under way may take after the word to stop; how long what was cut off then may take to end.
GRACE_S = 25
END_S = 2
# How long connections are accepted that are there already.
ACCEPT_S = 0.1
# What may wait for a client outside of this process, half of what the kernel then allows: enough for a token stream to
# anywhere, and little enough for the memory that many slow readers take.
SEND_BUFFER_BYTES = 64 << 10
# Messages above the limit are read, up to so many times the limit, to answer them in words; larger ones are cut off
# with close code 1009.
FRAME_MARGIN = 4

log = structlog.get_logger()


class Server(uvicorn.Server):
    """Says in the log when and where it is ready, and finishes what cannot go on at another gateway."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain = drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As in uvicorn."""
        await super().startup(sockets)
        for each in sockets or []:
            log.info("ready", address=_address(each))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As in uvicorn, which closes WebSockets at once, when what must be finished here is finished."""
        # Connections that wait to be accepted would be reset, and a balancer could not tell whether requests got here.
        for listener in sockets or []:
            listener.listen(0)
        await asyncio.sleep(ACCEPT_S)
        for each in self.servers:
            each.close()
        for connection in list(self.server_state.connections):
            if isinstance(connection, BoundedHeads):
                connection.shutdown()
        if unfinished := self.server_state.tasks - self._drain.begin():
            await asyncio.wait(unfinished, timeout=GRACE_S)
        await super().shutdown(sockets)


def server(app: Starlette, settings: Settings) -> Server:
    """A server of the gateway's application; it gets its sockets when it runs."""
    logging.getLogger("uvicorn.error").addFilter(_foreseen)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=BoundedHeads,
        ws=BoundedSockets,
        ws_max_size=FRAME_MARGIN * settings.max_frame_bytes,
        ws_ping_interval=settings.ping_s,
        ws_ping_timeout=settings.ping_s,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=END_S,
    )
    return Server(config, app.state.drain)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # connections inherit it
    return listener


def _foreseen(record: logging.LogRecord) -> bool:
    """A WebSocket text that is no UTF-8 is its client's mistake, told by close code 1007; no traceback for it."""
    return not (record.exc_info and isinstance(record.exc_info[1], UnicodeDecodeError))


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
