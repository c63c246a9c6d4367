"""A process that has a share of a core only, so that a machine with few cores has room for several that are full.

`python -m tests.bench.slowed PID SHARE` stops it (SIGSTOP) for the rest of every period, as long as it lives. That is a
process of its own because a thread of a busy one would be late.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

PERIOD_S = 0.02


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
    due = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, signal.SIGCONT)
            _rest(due + share * PERIOD_S)
            os.kill(pid, signal.SIGSTOP)
            # Not sooner than that after a period that began late, or it would have more than its share.
            due = max(due + PERIOD_S, time.monotonic() + (1 - share) * PERIOD_S)
            _rest(due)


def _rest(until: float) -> None:
    time.sleep(max(until - time.monotonic(), 0))


if __name__ == "__main__":
    main()
