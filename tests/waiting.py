"""Waiting for a condition instead of for a time."""

import asyncio
import contextlib
import time
from collections.abc import Callable


def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Return when `condition()` is true; fail after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not true within {timeout_s} s"
        time.sleep(0.01)


async def until_async(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """As `until`, while other tasks go on."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not true within {timeout_s} s"
        await asyncio.sleep(0.01)


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """What came before the connection was closed, or reset, as it is where something is still on its way then."""
    pieces = []
    with contextlib.suppress(ConnectionResetError):
        while piece := await reader.read(65536):
            pieces.append(piece)
    return b"".join(pieces)
