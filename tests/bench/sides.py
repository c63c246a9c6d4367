"""What is compared: whoever writes answers for many users at once, in a process of its own."""

import asyncio
import contextlib
import dataclasses
import multiprocessing
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Protocol

OURS, PLAIN, NATIVE = "ours", "plain", "native"  # names of sides
STOP_TIMEOUT_S = 30.0

Ids = tuple[int, ...]


class Writer(Protocol):
    """Lives in the process of a side."""

    def write(self, name: str, prompts: Sequence[str], tokens: int) -> list[Ids]:
        """`tokens` ids after each prompt, all prompts at once, in the way of the side with that name."""

    def stop(self) -> None:
        """End the processes and connections that belong to it."""


class Side(Protocol):
    """A process that writes."""

    @property
    def pid(self) -> int:
        """Its process id; what is below it belongs to it."""

    async def write(self, prompts: Sequence[str], tokens: int) -> list[Ids]:
        """`tokens` greedy ids after each prompt, for so many users at once; fewer where one failed."""


@dataclasses.dataclass(frozen=True)
class WriterSide:
    """A Writer in another process, under one of the names that it knows."""

    pid: int
    name: str
    connection: Connection

    async def write(self, prompts: Sequence[str], tokens: int) -> list[Ids]:
        """See Side. Raises EOFError where the process failed; it has told why."""
        return await asyncio.to_thread(self._write, prompts, tokens)

    def _write(self, prompts: Sequence[str], tokens: int) -> list[Ids]:
        self.connection.send((self.name, prompts, tokens))
        written: list[Ids] = self.connection.recv()
        return written


@contextlib.asynccontextmanager
async def running_writer(make: Callable[[], Writer], *names: str) -> AsyncIterator[list[WriterSide]]:
    """What `make` makes, in a process of its own; a side for each name. Their first words wait until it is made."""
    with _started(make) as (pid, connection):
        yield [WriterSide(pid, name, connection) for name in names]


@contextlib.contextmanager
def _started(make: Callable[[], Writer]) -> Iterator[tuple[int, Connection]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(make, theirs))
    process.start()
    theirs.close()
    try:
        assert process.pid is not None
        yield process.pid, ours
    finally:
        ours.close()  # which tells it to stop
        process.join(STOP_TIMEOUT_S)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(make: Callable[[], Writer], connection: Connection) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as everywhere else, for hivemind's own processes
    writer = make()
    try:
        with contextlib.suppress(EOFError):
            while True:
                connection.send(writer.write(*connection.recv()))
    finally:
        writer.stop()
    os._exit(0)  # some of hivemind's objects complain when they are collected at the end
