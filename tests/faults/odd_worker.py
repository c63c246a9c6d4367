"""`python -m tests.faults.odd_worker`: a worker of the oracle that something is wrong with.

--clock: seconds that its clock is wrong by. --poison: a seed at whose fifth token the process dies, as of a crash in a
library that one prompt leads to. --trap: a seed at whose fifth token its event loop hangs for good.
"""

import argparse
import os
import sys
import threading
import time
from collections.abc import Sequence

from worker import oracle_backend
from worker.__main__ import main as work
from worker.backend import Choice, Draw

FATAL_POSITION = 4


class OddSession(oracle_backend.OracleSession):
    """Dies, or hangs, where it should give the fifth token of one seed."""

    poison = -1
    trap = -1

    async def step(
        self, ids: Sequence[Sequence[int]], draws: Sequence[Draw], parents: Sequence[int] | None = None
    ) -> list[Choice]:
        """As any session does, but for that token."""
        seeds = [draw.sampling.seed for draw in draws if draw.position == FATAL_POSITION]
        if self.poison in seeds:
            os._exit(66)
        if self.trap in seeds:
            threading.Event().wait()
        return await super().step(ids, draws, parents)


def main() -> int:
    """As `python -m worker`."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.odd_worker", description="A worker with a fault.")
    parser.add_argument("--clock", type=float, default=0)
    parser.add_argument("--poison", type=int, default=-1)
    parser.add_argument("--trap", type=int, default=-1)
    arguments = parser.parse_args()
    right = time.time
    time.time = lambda: right() + arguments.clock
    OddSession.poison, OddSession.trap = arguments.poison, arguments.trap
    oracle_backend.OracleSession = OddSession  # type: ignore[misc]
    return work()


if __name__ == "__main__":
    sys.exit(main())
