"""TCP ports of this machine: which are free, who has one, and what answers there."""

import asyncio
import contextlib
import socket

import psutil

HOST = "127.0.0.1"
ANSWER_TIMEOUT_S = 2.0


def is_free(port: int) -> bool:
    """Whether a service could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def first_free(start: int) -> int:
    """The first port from `start` on that is free."""
    return next(port for port in range(start, 65536) if is_free(port))


def holder(port: int) -> str:
    """Who listens on a port, for people."""
    with contextlib.suppress(psutil.Error):
        for each in psutil.net_connections("tcp"):
            if each.pid and each.status == psutil.CONN_LISTEN and each.laddr[1:] == (port,):
                return f"{psutil.Process(each.pid).name()} (process {each.pid})"
    return "another process"


async def answers(port: int, question: bytes = b"", expected: bytes = b"") -> bool:
    """Whether something listens there and, asked `question`, answers with a line that starts with `expected`."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(HOST, port)
            with contextlib.closing(writer):
                writer.write(question)
                return not expected or (await reader.readline()).startswith(expected)
    return False
