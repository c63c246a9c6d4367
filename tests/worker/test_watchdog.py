"""A model hangs where a step is given up and none has come back since it began."""

import time

from worker.watchdog import Watchdog


def test_only_a_model_without_any_step_hangs() -> None:
    dog = Watchdog(step_timeout_s=1)
    began = time.monotonic()
    dog.returned("a")
    dog.overdue("a", began)
    assert not dog.hung.is_set()
    # when that was the last sign of it
    dog.overdue("a", time.monotonic())
    assert dog.hung.is_set()


def test_another_model_s_steps_count_for_nothing() -> None:
    dog = Watchdog(step_timeout_s=1)
    began = time.monotonic()
    dog.returned("a")
    dog.overdue("b", began)
    assert dog.hung.is_set()
