"""`python -m deploy.guard FOLDER`: outlives the runner of a stack, and ends what that left behind.

So that even after a kill -9 of the runner nothing stays.
"""

import signal
import sys
from pathlib import Path

from deploy import marks


def main() -> None:
    """Standard input is a pipe from the runner: it ends when the runner does, in whatever way."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    marks.end(marks.mark(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
