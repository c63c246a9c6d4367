"""How long a client that was refused is asked to wait."""

import pytest

from gateway.waits import busy_wait_s
from shared.errors import Code
from shared.records import Busy


@pytest.mark.parametrize(("depth", "wait_s"), [(0, 1), (7, 1), (8, 2), (2000, 60)])
def test_a_guess_before_any_job_was_done(depth: int, wait_s: int) -> None:
    assert busy_wait_s(Busy(Code.BUSY, depth)) == wait_s


def test_the_time_of_those_before_give_or_take_a_fifth() -> None:
    waits = {busy_wait_s(Busy(Code.BUSY, 9, 10_000)) for _ in range(500)}
    assert waits == {9, 10, 11, 12}


def test_nobody_is_asked_to_come_back_before_its_rate_allows_it() -> None:
    waits = {busy_wait_s(Busy(Code.RATE, 0, 10_000)) for _ in range(500)}
    assert waits == {11, 12}
    assert busy_wait_s(Busy(Code.RATE, 0, 180_000)) >= 180


@pytest.mark.parametrize(("wait_ms", "wait_s"), [(1, 1), (500, 1), (10_000_000, 60)])
def test_within_bounds(wait_ms: int, wait_s: int) -> None:
    assert busy_wait_s(Busy(Code.TENANT_BUSY, 9, wait_ms)) == wait_s
