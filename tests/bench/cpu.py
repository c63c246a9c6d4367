"""CPU time of whole processes: a client of a swarm has p2pd and a DHT process below it, which work for it."""

import ctypes
import time

import psutil

_libc = ctypes.CDLL(None)


def cpu_s(pid: int) -> float:
    """User and system seconds that a process and all that are below it now have used so far.

    By the kernel's clock of each process (clock_getcpuclockid(3)), which counts nanoseconds; /proc counts hundredths.
    """
    below = psutil.Process(pid).children(recursive=True)
    return sum(clock_s(each) for each in (pid, *(process.pid for process in below)))


def clock_s(pid: int) -> float:
    """User and system seconds that one process has used so far; 0 where it has ended."""
    clock = ctypes.c_int()
    if _libc.clock_getcpuclockid(pid, ctypes.byref(clock)):
        return 0.0  # it has just ended
    try:
        return time.clock_gettime(clock.value)
    except OSError:
        return 0.0
