"""Which processes belong to a local stack, whoever started them: all of them carry its mark in their environment.

A process group would not do: some libraries put their helpers into sessions of their own, and these outlive a killed
parent.
"""

import contextlib
import os
import time
from pathlib import Path

import psutil

VARIABLE = "COROLLA_STACK"
_PERIOD_S = 0.02


def mark(state: Path, service: str | None = None) -> str:
    """The mark of a stack with its state in that folder, or of one of its services."""
    return f"{state.resolve()}:" + (f"{service}:" if service else "")


def carriers(wanted: str) -> list[psutil.Process]:
    """Living processes with this mark: all of a stack's, or one service's."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it ended meanwhile, or belongs to somebody else
            if process.environ().get(VARIABLE, "").startswith(wanted) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]


def end(wanted: str) -> None:
    """Kill whatever carries this mark, and return when nothing does any more."""
    while found := carriers(wanted):
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(_PERIOD_S)
