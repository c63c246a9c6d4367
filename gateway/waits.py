"""How long a client that was refused is asked to wait, in whole seconds (RFC 9110, 10.2.3)."""

import math
import random

from shared.errors import Code
from shared.records import Busy

# Where more is not known.
BRIEF_WAIT_S = 2
LONGEST_WAIT_S = 60
# Jobs that are taken to be done in a second, for a guess before any was done.
JOBS_PER_S = 8


def busy_wait_s(error: Busy) -> int:
    """The time that the jobs before it take, give or take a fifth, so that not all who were refused return at once; or
    the time until its caller may go on, and up to a fifth more."""
    if not error.wait_ms:
        return min(1 + error.depth // JOBS_PER_S, LONGEST_WAIT_S)
    if error.code is Code.RATE:
        return math.ceil(error.wait_ms / 1000 * random.uniform(1, 1.2))
    return min(max(math.ceil(error.wait_ms / 1000 * random.uniform(0.8, 1.2)), 1), LONGEST_WAIT_S)
