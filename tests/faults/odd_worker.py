"""`python -m tests.faults.odd_worker`: a worker of the oracle that something is wrong with.

--clock: seconds that its clock is wrong by. --poison: a seed at whose fifth token the process dies, as of a crash in a
library that one prompt leads to.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence

from worker import oracle_backend
from worker.__main__ import main as work
from worker.backend import Choice, Draw

FATAL_POSITION = 4


class PoisonedSession(oracle_backend.OracleSession):
    """Dies where it should give the fifth token of one seed."""

    poison = -1

    async def step(
        self, ids: Sequence[Sequence[int]], draws: Sequence[Draw], parents: Sequence[int] | None = None
    ) -> list[Choice]:
        """As any session does, but for that token."""
        if any(draw.sampling.seed == self.poison and draw.position == FATAL_POSITION for draw in draws):
            os._exit(66)
        return await super().step(ids, draws, parents)


def main() -> int:
    """As `python -m worker`."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.odd_worker", description="A worker with a fault.")
    parser.add_argument("--clock", type=float, default=0)
    parser.add_argument("--poison", type=int, default=-1)
    arguments = parser.parse_args()
    right = time.time
    time.time = lambda: right() + arguments.clock
    PoisonedSession.poison = arguments.poison
    oracle_backend.OracleSession = PoisonedSession  # type: ignore[misc]
    return work()


if __name__ == "__main__":
    sys.exit(main())
