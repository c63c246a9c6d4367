"""How fast tokens come in the middle of a run, where all of it is under way, and what they cost."""

import collections
import time
from collections.abc import Callable

BEGUN, ENDING = 0.1, 0.9  # the middle is between these shares of all tokens


class Meter:
    """Counts the tokens of a run. cpu_s: CPU time so far, by process; this one's own is added as `client`."""

    def __init__(self, cpu_s: Callable[[], dict[str, float]], tokens: int) -> None:
        self._cpu_s = cpu_s
        self._tokens = 0
        self._due = collections.deque([int(BEGUN * tokens), int(ENDING * tokens)])
        self._marks: list[tuple[int, float, dict[str, float]]] = []

    def took(self, tokens: int) -> None:
        """So many tokens came."""
        self._tokens += tokens
        while self._due and self._tokens >= self._due[0]:
            self._due.popleft()
            costs = self._cpu_s() | {"client": time.process_time()}
            self._marks.append((self._tokens, time.monotonic(), costs))

    def result(self) -> tuple[float, dict[str, float]]:
        """Tokens a second, and microseconds of CPU a token."""
        (first, began, costs), (last, ended, sums) = self._marks
        tokens = last - first
        return tokens / (ended - began), {name: 1e6 * (sums[name] - costs[name]) / tokens for name in costs}
