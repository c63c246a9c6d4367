"""A model hangs where a step is given up and none has come back since it began."""

import time

from worker.watchdog import LATE_S, Watchdog


def test_only_a_model_without_any_step_hangs() -> None:
    dog = Watchdog(step_timeout_s=1)
    began = time.monotonic()
    dog.returned("a")
    dog.overdue("a", began)
    assert not dog.hung.is_set()
    # when that was the last sign of it
    dog.overdue("a", time.monotonic())
    assert dog.hung.is_set()


def test_a_step_whose_end_is_noticed_late_was_overslept() -> None:
    dog = Watchdog(step_timeout_s=60)
    now = time.monotonic()
    assert not dog.overslept(now - 60)
    assert dog.overslept(now - 60 - LATE_S)


def test_another_model_s_steps_count_for_nothing() -> None:
    dog = Watchdog(step_timeout_s=1)
    began = time.monotonic()
    dog.returned("a")
    dog.overdue("b", began)
    assert dog.hung.is_set()
