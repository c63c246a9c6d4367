"""Tells a model that hangs from a step that does."""

import asyncio
import time

LATE_S = 2.0  # no event loop that runs hears of the end of a time limit so long after it


class Watchdog:
    """Hears of the steps of all jobs.

    step_timeout_s: a step that takes longer is given up. hung: set where no other step of its model came back in that
    time either: then the model hangs, which it does not get over by itself.
    """

    def __init__(self, step_timeout_s: float) -> None:
        self.step_timeout_s = step_timeout_s
        self.hung = asyncio.Event()
        self._returned_at: dict[str, float] = {}  # by model

    def overslept(self, began: float) -> bool:
        """Whether a step that began at that time of the monotonic clock, and whose time is over, ran out of it while
        this process was stopped, or its machine slept: then what it gives may be here, and not have been read yet."""
        return time.monotonic() - began > self.step_timeout_s + LATE_S

    def returned(self, model: str) -> None:
        """A step of this model did what it should."""
        self._returned_at[model] = time.monotonic()

    def overdue(self, model: str, began: float) -> None:
        """A step of this model, which began at that time of the monotonic clock, was given up."""
        if self._returned_at.get(model, 0.0) < began:
            self.hung.set()
