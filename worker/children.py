"""The processes below this one: those of a swarm's client, p2pd and its DHT, which come back by nobody's work."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import structlog

_log = structlog.get_logger()


@contextmanager
def watched(ended: asyncio.Event) -> Iterator[None]:
    """Within, `ended` is set as soon as one of the processes ends that are below this one now."""
    loop = asyncio.get_running_loop()
    descriptors: list[int] = []

    def end(child: psutil.Process, name: str) -> None:
        if not ended.is_set():
            _log.error("child_ended", child=name, pid=child.pid)
        ended.set()

    try:
        for child in psutil.Process().children(recursive=True):
            try:
                name, descriptor = child.name(), os.pidfd_open(child.pid)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue  # one that helped to start, and is done
            descriptors.append(descriptor)
            loop.add_reader(descriptor, end, child, name)
        yield
    finally:
        for descriptor in descriptors:
            loop.remove_reader(descriptor)
            os.close(descriptor)
