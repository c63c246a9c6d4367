"""Records of files and batches against a real server."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from shared.keys import Keys
from shared.link import Link
from shared.shelf import Shelf
from tests.valkey import Valkey
from tests.waiting import until_async

pytestmark = pytest.mark.anyio


class Thing(msgspec.Struct, frozen=True):
    """A record."""

    id: str
    number: int = 0


@pytest.fixture
async def link(valkey: Valkey) -> AsyncIterator[Link]:
    link = Link(valkey.url, Keys().prefix)
    yield link
    await link.close()


@pytest.fixture
def shelf(link: Link) -> Shelf[Thing]:
    return Shelf(link, Keys(), "thing", Thing, 0, limit=3)


async def put(shelf: Shelf[Thing], id: str, owner: str = "o") -> bool:
    return await shelf.put(owner, id, Thing(id))


async def test_a_record_from_put_to_drop(shelf: Shelf[Thing], valkey: Valkey) -> None:
    assert await shelf.get("a") is None
    assert await put(shelf, "a")
    assert await shelf.get("a") == Thing("a")
    # put twice it stays as it is
    assert await shelf.change("a", lambda thing: Thing(thing.id, 7)) == Thing("a", 7)
    assert await put(shelf, "a")
    assert await shelf.get("a") == Thing("a", 7)
    assert {str(name, "ascii") for name in valkey.client.scan_iter()} == {"{p}:thing:a", "{p}:owned:thing:o"}
    assert [await shelf.drop("o", "a"), await shelf.drop("o", "a")] == [True, False]
    assert list(valkey.client.scan_iter()) == []
    assert await shelf.change("a", lambda thing: thing) is None


async def test_an_owner_may_have_so_many(shelf: Shelf[Thing]) -> None:
    assert [await put(shelf, id) for id in "abcd"] == [True, True, True, False]
    assert await put(shelf, "d", owner="another")


async def test_lists_begin_with_the_newest_and_go_on_behind_one(shelf: Shelf[Thing]) -> None:
    for id in "abc":
        await put(shelf, id)
    await put(shelf, "x", owner="another")
    assert [thing.id for thing in await shelf.list("o", 10)] == ["c", "b", "a"]
    assert [thing.id for thing in await shelf.list("o", 1, after="c")] == ["b"]
    assert await shelf.list("o", 10, after="x") == []


async def test_what_expired_is_forgotten(link: Link, valkey: Valkey) -> None:
    shelf = Shelf(link, Keys(), "thing", Thing, 60_000, limit=1)
    await put(shelf, "a")
    assert 0 < valkey.client.pttl("{p}:thing:a") <= 60_000
    valkey.client.delete("{p}:thing:a")  # as time does
    assert await shelf.list("o", 10) == []
    assert await put(shelf, "b")


async def test_what_expired_makes_room_though_nobody_lists(link: Link, valkey: Valkey) -> None:
    shelf = Shelf(link, Keys(), "thing", Thing, 50, limit=2)
    await put(shelf, "a")
    await put(shelf, "b")
    await until_async(lambda: not valkey.client.exists("{p}:thing:b"))
    assert await put(shelf, "c")
    assert valkey.client.zrange("{p}:owned:thing:o", 0, -1) == [b"c"]


async def test_changes_at_the_same_time_are_all_done(shelf: Shelf[Thing]) -> None:
    await put(shelf, "a")
    await asyncio.gather(*(shelf.change("a", lambda thing: Thing("a", thing.number + 1)) for _ in range(20)))
    assert await shelf.get("a") == Thing("a", 20)
