"""API keys at the broker."""

import re
from collections.abc import AsyncIterator

import pytest

from shared.api_keys import ApiKeys
from shared.keys import Keys
from shared.link import Link
from tests.valkey import Valkey

pytestmark = pytest.mark.anyio

PEPPER = "p" * 32


@pytest.fixture
async def link(valkey: Valkey) -> AsyncIterator[Link]:
    link = Link(valkey.url, Keys().prefix)
    yield link
    await link.close()


@pytest.fixture
def keys(link: Link) -> ApiKeys:
    return ApiKeys(link, Keys(), PEPPER)


async def test_a_key_is_found_until_it_is_revoked(keys: ApiKeys) -> None:
    key = await keys.create("ann", ("generate",))
    assert re.fullmatch(r"[0-9a-f]{16}\.[0-9a-f]{32}", key)
    found = await keys.find(key)
    assert found is not None
    assert (found.id, found.name, found.scopes) == (key[:16], "ann", ("generate",))
    assert await keys.revoke(found.id)
    assert await keys.find(key) is None
    assert not await keys.revoke(found.id)


async def test_what_is_no_key_is_not_found(keys: ApiKeys, link: Link) -> None:
    key = await keys.create("ann", ("generate",))
    other = await keys.create("bob", ("generate",))
    mixed = key[:17] + other[17:]
    for wrong in (mixed, key[:-1], key + "0", key.upper(), key[:16], "", "é" * 49, key + "\n"):
        assert await keys.find(wrong) is None
    # nor is a right one where the pepper is another
    assert await ApiKeys(link, Keys(), "q" * 32).find(key) is None


async def test_the_broker_holds_no_key(keys: ApiKeys, valkey: Valkey) -> None:
    key = await keys.create("ann", ("generate",))
    held = b"".join(valkey.client.dump(name) or b"" for name in valkey.client.scan_iter())
    assert key[17:].encode() not in held
    assert PEPPER.encode() not in held


async def test_the_newest_is_listed_first(keys: ApiKeys) -> None:
    for name in ("a", "b", "c"):
        await keys.create(name, ("batches",))
    assert [key.name for key in await keys.list()] == ["c", "b", "a"]
