"""Runs the gateway: `python -m gateway`."""

import gc
import signal
import socket
import sys

from gateway.app import create_app
from gateway.server import listen, server
from gateway.settings import Settings
from shared import catalog, logs, open_files, traces
from shared.settings import SettingError, read


def main() -> None:
    """Serve until SIGTERM or SIGINT. Exit status 2: wrong settings; 1: the address cannot be had."""
    try:
        settings = read(Settings)
        models = catalog.load(settings.catalog)
        traces.configure(settings.trace_url, "corolla-gateway")
    except (SettingError, catalog.CatalogError) as error:
        sys.exit(_complain(str(error), 2))
    logs.configure(settings.log_level)
    open_files.allow_all()
    listeners = [_listen("COROLLA_BIND", *settings.bind)]
    if settings.metrics_bind:
        listeners.append(_listen("COROLLA_METRICS_BIND", *settings.metrics_bind))
    # uvicorn raises the signal that stopped it once more when all is done; then this is the end, in order.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    serving = server(create_app(settings, models), settings)
    # What is there now stays, and no collection need look at it again.
    gc.freeze()
    serving.run(listeners)


def _listen(name: str, host: str, port: int) -> socket.socket:
    try:
        return listen(host, port)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        sys.exit(_complain(f"{name}: cannot listen on {host}:{port}: {reason}", 1))


def _complain(text: str, status: int) -> int:
    print(text, file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
