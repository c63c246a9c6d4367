"""The link to the broker is cut, slow, deaf or loses replies while answers are read."""

import asyncio
import random
import time

import pytest

from tests.faults.conftest import BUSY, FULL, Stack, Tell
from tests.faults.proxy import Loss
from tests.faults.reader import quantile, read_all, reading, spread
from tests.waiting import until_async

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1200)]

STREAMS = 16


async def test_all_links_are_reset(stack: Stack, dice: random.Random) -> None:
    async with reading(stack.readers(STREAMS, 1000 if FULL else 150)):
        for _ in range(40 if FULL else 4):
            assert stack.proxy.reset()
            await asyncio.sleep(dice.uniform(0.05, 0.4))


async def test_nothing_gets_through_for_a_while(stack: Stack, tell: Tell) -> None:
    """Tokens come again within 2 s of the end of it, and every answer is exact."""
    readers = stack.readers(STREAMS, 200)
    async with reading(readers):
        with stack.proxy.black_hole():
            await asyncio.sleep(10 if FULL else 2)
        healed = time.monotonic()
        await until_async(lambda: all(reader.silences_since(healed) for reader in readers), 20)
    back_s = [next(end for _, end in reader.silences if end > healed) - healed for reader in readers]
    tell(f"back after {spread(back_s)}")
    assert max(back_s) <= 2 * BUSY


async def test_the_subscription_breaks_four_times_a_second(stack: Stack, tell: Tell) -> None:
    """What was missed is repaired from the log: no silence is long that such a break falls into."""
    readers, breaks = stack.readers(STREAMS, 1000 if FULL else 150), []
    async with reading(readers):
        while not all(reader.ended for reader in readers):
            # The subscriptions of the gateways, and those of the workers.
            if stack.proxy.reset(subscriptions_only=True) == len(stack.gateways) + len(stack.workers):
                breaks.append(time.monotonic())
            await asyncio.sleep(0.25)
    gaps = [each for reader in readers for each in reader.silences if any(each[0] < at < each[1] for at in breaks)]
    tell(f"{len(breaks)} breaks, tokens across one after {spread([end - begin for begin, end in gaps])}")
    assert len(gaps) >= len(breaks)
    assert quantile([end - begin for begin, end in gaps], 0.99) <= 0.2 * BUSY


async def test_links_that_are_slow_or_bring_one_byte_at_a_time(stack: Stack) -> None:
    async with reading(stack.readers(4, 100)):
        stack.proxy.bytewise = True
        await asyncio.sleep(1)
        stack.proxy.bytewise = False
        stack.proxy.delay_s = 0.05


async def test_links_end_in_one_direction(stack: Stack) -> None:
    async with reading(stack.readers(STREAMS, 100)):
        stack.proxy.half_close()


async def test_a_reply_is_lost_at_every_call(stack: Stack, tell: Tell) -> None:
    """What was asked has happened, but nobody heard of it: the client sees it once all the same."""
    lost = 0
    for number in range(1, 120 if FULL else 9):
        stack.proxy.lose(Loss(number, after=number % 3))
        await read_all(stack.readers(2, 12, first=100 * number))
        lost += stack.proxy.replies >= number
    tell(f"{lost} replies lost")
    assert lost >= 5
