"""Runs the gateway: `python -m gateway`."""

import logging
import signal
import socket
import sys

import structlog
import uvicorn

from gateway.app import create_app
from gateway.settings import Settings
from shared import catalog, logs
from shared.settings import SettingError, read

# How long answers under way may take after the word to stop.
GRACE_S = 25
# Messages above the limit are read, up to so many times the limit, to answer them in words.
FRAME_MARGIN = 4

log = structlog.get_logger()


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or []:
            log.info("ready", address=_address(each))


class _Quiet(logging.Filter):
    """A WebSocket text that is no UTF-8 is the client's mistake, told by close code 1007; no traceback for it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], UnicodeDecodeError))


def main() -> None:
    """Serve until SIGTERM or SIGINT. Exit status 2: wrong settings; 1: the address is taken."""
    try:
        settings = read(Settings)
        models = catalog.load(settings.catalog)
    except (SettingError, catalog.CatalogError) as error:
        sys.exit(_complain(str(error), 2))
    logs.configure(settings.log_level)
    logging.getLogger("uvicorn.error").addFilter(_Quiet())
    try:
        listener = _listen(*settings.bind)
    except OSError as error:
        host, port = settings.bind
        sys.exit(_complain(f"COROLLA_BIND: cannot listen on {host}:{port}: {error.strerror}", 1))
    # uvicorn raises the signal that stopped it once more when all is done; then this is the end, in order.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    _Server(_config(settings, models)).run([listener])


def _config(settings: Settings, models: catalog.Catalog) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(settings, models),
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
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
        timeout_graceful_shutdown=GRACE_S,
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _complain(text: str, status: int) -> int:
    print(text, file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
