"""What a gateway finishes before it stops."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any


class Drain:
    """Sockets that hear when the gateway is about to stop."""

    def __init__(self) -> None:
        self._sockets: dict[asyncio.Task[Any] | None, Callable[[], bool]] = {}

    @contextlib.contextmanager
    def told(self, leave: Callable[[], bool]) -> Iterator[None]:
        """For a socket's task: within, `leave()` is called when the gateway is about to stop.

        It says whether the task then finishes what it does; otherwise its client goes on at another gateway.
        """
        task = asyncio.current_task()
        self._sockets[task] = leave
        try:
            yield
        finally:
            del self._sockets[task]

    def begin(self) -> set[asyncio.Task[Any] | None]:
        """Tell all. Returns the tasks that nobody need wait for."""
        return {task for task, leave in self._sockets.items() if not leave()}
