"""`python -m worker`: load the catalogue's models, take jobs, and hand them over at SIGTERM or SIGINT."""

import asyncio
import gc
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Mapping

import structlog

from shared import catalog as catalogs
from shared import logs, open_files, traces
from shared.broker import Broker
from shared.heart import Heart
from shared.keys import Timing
from shared.records import Registration
from shared.settings import SettingError, read
from worker import models
from worker.children import watched
from worker.consumer import Consumer
from worker.engine import Engine
from worker.metrics import Metrics
from worker.outbox import Courier
from worker.pulse import Pulse
from worker.sessions import Sessions
from worker.settings import Settings

SAME_WISH_S = 1.0  # a terminal and a supervisor may both pass one Ctrl-C on

_log = structlog.get_logger()


def main() -> int:
    """Run the worker. Does not return, unless it could not start: then the exit status."""
    try:
        settings = read(Settings)
        catalog = catalogs.load(settings.catalog)
        traces.configure(settings.trace_url, "corolla-worker")
    except (SettingError, catalogs.CatalogError) as error:
        print(f"worker: {error}", file=sys.stderr)
        return 2
    logs.configure(settings.log_level)
    # Each server of each session is one.
    open_files.allow_all()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        status = runner.run(_serve(settings, catalog))
        # A step that hangs in a thread must not hold up an orderly end, nor may a repeated signal spoil it.
        sys.stderr.flush()
        os._exit(status)


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


async def _serve(settings: Settings, catalog: catalogs.Catalog) -> int:
    try:
        served = await asyncio.to_thread(models.load, catalog, settings)
    except models.LoadError as error:
        _log.error("model_not_loaded", error=str(error))
        return 1
    # What is there now stays, and no collection need look at it again: with models' libraries that takes long.
    gc.freeze()
    # Only now: a process that Petals forked must not share the pipe through which signals are heard.
    stop = _stop_on_signal()
    metrics = Metrics(served)
    try:
        if settings.metrics_bind and not _serve_metrics(metrics, *settings.metrics_bind):
            return 1
        return await _work(settings, served, stop, metrics)
    finally:
        await asyncio.to_thread(traces.close)
        for model in served.values():
            await model.backend.stop()


def _serve_metrics(metrics: Metrics, host: str, port: int) -> bool:
    """Whether they are served now."""
    try:
        metrics.serve(host, port)
    except OSError as error:
        _log.error(
            "metrics_not_served", error=f"COROLLA_METRICS_BIND: cannot listen on {host}:{port}: {error.strerror}"
        )
        return False
    return True


def _stop_on_signal() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; a second one, later, ends the process on the spot."""
    stop = asyncio.Event()
    first_at = 0.0

    def hear() -> None:
        nonlocal first_at
        if not stop.is_set():
            first_at = time.monotonic()
            stop.set()
        elif time.monotonic() - first_at > SAME_WISH_S:
            os._exit(1)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, hear)
    return stop


async def _work(settings: Settings, served: Mapping[str, models.Served], stop: asyncio.Event, metrics: Metrics) -> int:
    timing = Timing(lease_ms=settings.lease_ms, beat_s=settings.beat_s, reap_s=settings.reap_s)
    name = settings.worker_name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    who = Registration(name, tuple(served), settings.slots)
    async with Broker(settings.redis_url, timing) as broker:
        courier = Courier(broker, metrics)
        sessions = Sessions(settings.kept_sessions, settings.kept_idle_s)
        engine = Engine(served, sessions, courier, settings.slots, settings.step_timeout_s, metrics)
        heart = Heart(settings.redis_url, who, timing)
        consumer = Consumer(broker, who, engine, courier, sessions)
        with watched(engine.hung):
            async with Pulse(heart, engine, timing.beat_s, settings.step_timeout_s):
                _log.info("ready", worker=name, models=list(served), slots=settings.slots)
                await consumer.run(stop)
            await consumer.leave()
    return int(engine.hung.is_set())


if __name__ == "__main__":
    sys.exit(main())
