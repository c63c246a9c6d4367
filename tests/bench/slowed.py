"""A process that has a share of a core only, so that a machine with few cores has room for several that are full.

`python -m tests.bench.slowed PID SHARE` stops it (SIGSTOP) whenever it has used more CPU time than that, and lets it go
on when that is made up for, as long as it lives. This is no thread, because one of a busy process would be late.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.bench.cpu import clock_s

LOOK_S = 0.005
# CPU time that it may save up while it has nothing to do, or does not get a core.
SAVED_S = 0.05


@contextlib.contextmanager
def slowed(pid: int, share: float) -> Iterator[None]:
    """Slow the process `pid` down for a while; afterwards it goes on as before."""
    slower = subprocess.Popen([sys.executable, "-m", "tests.bench.slowed", str(pid), str(share)])
    try:
        yield
    finally:
        slower.kill()
        slower.wait()
        os.kill(pid, signal.SIGCONT)


def main() -> None:
    """Does not return while the process lives."""
    pid, share = int(sys.argv[1]), float(sys.argv[2])
    at, used_s, saved_s = time.monotonic(), clock_s(pid), 0.0
    with contextlib.suppress(ProcessLookupError):
        while True:
            time.sleep(LOOK_S)
            past, spent_s = at, used_s
            at, used_s = time.monotonic(), clock_s(pid)
            saved_s = min(saved_s + share * (at - past) - (used_s - spent_s), SAVED_S)
            os.kill(pid, signal.SIGCONT if saved_s > 0 else signal.SIGSTOP)


if __name__ == "__main__":
    main()
