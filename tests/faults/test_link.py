"""The link to the broker is cut, slow, deaf or loses replies while answers are read."""

import asyncio
import random
import time

import httpx
import pytest

from shared import lua
from tests.dialogue import dialogue
from tests.faults.conftest import BUSY, FULL, Stack, Tell, bounded, full_only, within
from tests.faults.proxy import Loss
from tests.faults.reader import quantile, read_all, reading, spread
from tests.waiting import until_async

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1200)]

STREAMS = 16
# All that gateways and workers do while answers are read, one is cancelled, and a worker leaves.
OPERATIONS = (
    *("submit", "claim", "append", "beat", "attach", "cancel", "positions", "sweep", "reap", "requeue", "evacuate"),
    *("open_session", "close_session", "announce", "census", "workers"),
    *("put_record", "get_record", "list_records", "drop_record"),
)


async def test_all_links_are_reset(stack: Stack, dice: random.Random) -> None:
    async with reading(stack.readers(STREAMS, 1000 if FULL else 150)):
        for _ in range(40 if FULL else 4):
            assert stack.proxy.reset()
            await asyncio.sleep(dice.uniform(0.05, 0.4))


@bounded
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
    within(2 * BUSY, max(back_s))


@bounded
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
    within(0.2 * BUSY, quantile([end - begin for begin, end in gaps], 0.99))


async def test_links_that_are_slow_or_bring_one_byte_at_a_time(stack: Stack) -> None:
    async with reading(stack.readers(4, 100)):
        stack.proxy.bytewise = True
        await asyncio.sleep(1)
        stack.proxy.bytewise = False
        stack.proxy.delay_s = 0.05


async def test_links_end_in_one_direction(stack: Stack) -> None:
    async with reading(stack.readers(STREAMS, 100)):
        stack.proxy.half_close()


async def _cancel(url: str) -> None:
    """Cancel an answer in its midst, and end the session."""
    async with dialogue(url, ping_interval=None) as socket:
        await socket.open(max_length=1000)
        async for reply in socket.generate(inputs="hi", max_new_tokens=1, stop_sequence="never", seed=1):
            assert reply["ok"], reply
            await socket.send({"type": "cancel"})


async def _keep_a_file(url: str) -> None:
    """Keep it, find it, and drop it; what is done twice may be said to be done already."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        form = {"data": {"purpose": "batch"}, "files": {"file": ("a", b"a")}}
        id = (await client.post("/v1/files", **form)).json()["id"]  # type: ignore[arg-type]
        assert [file["id"] for file in (await client.get("/v1/files")).json()["data"]] == [id]
        assert (await client.delete(f"/v1/files/{id}")).json() == {"id": id, "object": "file", "deleted": True}
        assert (await client.get("/v1/files")).json()["data"] == []


async def test_the_reply_to_every_operation_is_lost(stack: Stack) -> None:
    """What was asked has happened, but nobody heard of it: the client sees it once all the same."""
    # given that the next reply to each operation gets lost
    names = {lua.script(name).sha.encode(): name for name in OPERATIONS}
    for name in names.values():
        stack.valkey.client.script_load(lua.script(name).text)
    stack.proxy.lose_replies_to(names)
    # when all of them are asked for
    async with reading(stack.readers(STREAMS, 200)):
        await _cancel(stack.urls[0])
        await _keep_a_file(stack.gateways[0].url)
        await stack.counted("corolla_jobs_waiting")
        stack.proxy.reset(subscriptions_only=True)
        assert await asyncio.to_thread(stack.workers[0].terminate) == 0
        await asyncio.to_thread(stack.workers[0].start)
        await until_async(lambda: stack.proxy.lost == set(names), 20)


@full_only
async def test_any_reply_to_a_gateway_or_worker_is_lost(stack: Stack, tell: Tell) -> None:
    """Whichever it is of two short answers, each of which comes whole and once."""
    lost = 0
    for number in range(1, 60):
        stack.proxy.lose(Loss(number, after=number % 3))
        await read_all(stack.readers(2, 12, first=100 * number))
        lost += stack.proxy.replies >= number
    tell(f"{lost} replies lost")
    assert lost >= 30
