"""The pages at a gateway that asks for API keys."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, expect

from shared.api_keys import ApiKeys
from shared.keys import Keys
from shared.link import Link
from shared.messages import FinishReason
from tests.browser import ChatPage, chat_page
from tests.gateway.conftest import Serve, Served
from tests.gateway.player import Player
from tests.page.axe import violations
from tests.valkey import Valkey

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

PEPPER = "p" * 32
UNKNOWN = f"{'0' * 16}.{'0' * 32}"


@pytest.fixture
async def keys(valkey: Valkey) -> AsyncIterator[ApiKeys]:
    """Makes and revokes keys."""
    link = Link(valkey.url, Keys().prefix)
    yield ApiKeys(link, Keys(), PEPPER)
    await link.close()


@pytest.fixture
async def guarded(serve: Serve) -> AsyncIterator[Served]:
    """A gateway whose callers need keys."""
    async with serve(auth="on", key_pepper=PEPPER) as served:
        yield served


@pytest.fixture
async def page(browser: Browser, guarded: Served) -> AsyncIterator[ChatPage]:
    """A browser that keeps no key yet, and is closed before the gateway."""
    async with chat_page(browser) as page:
        page.complaints.may_be_refused = True
        yield page


async def enter(page: ChatPage, key: str, asked_with: str) -> None:
    """Type a key, once the page asks for one in these words."""
    dialog = page.page.get_by_role("dialog", name="An API key is needed")
    await page.shows(dialog, asked_with)
    await dialog.get_by_label("API key", exact=True).fill(key)
    await dialog.get_by_label("API key", exact=True).press("Enter")


async def answered(page: ChatPage, player: Player) -> None:
    """Ask, and read an answer."""
    async with player.playing(" Yes.", "###"):
        await page.ask("hi")
        await page.shows(page.answer, "Yes.")
        await page.is_idle()


async def test_people_are_asked_for_a_key_until_one_counts(
    page: ChatPage, guarded: Served, player: Player, keys: ApiKeys
) -> None:
    # given
    key = await keys.create("ann", ("generate",))
    await page.page.goto(guarded.url)
    # when
    await enter(page, UNKNOWN, "Who runs this service gave you one.")
    await enter(page, f" {key} ", "The key that this browser kept does not count here")
    # then
    await page.ready()
    await answered(page, player)
    # and the browser keeps it
    await page.reload()
    await answered(page, player)
    # until it is to be forgotten
    await page.button("Forget API key").click()
    await page.shows(page.page.get_by_role("dialog"), "Who runs this service gave you one.")
    assert await page.page.evaluate("localStorage.getItem('api-key')") is None


async def test_a_key_that_is_revoked_in_the_middle(
    page: ChatPage, guarded: Served, player: Player, keys: ApiKeys
) -> None:
    # given a chat that was written with a key
    key = await keys.create("ann", ("generate",))
    await page.page.goto(guarded.url)
    await enter(page, key, "Who runs this service gave you one.")
    await page.ready()
    await answered(page, player)
    # when
    assert await keys.revoke(key.partition(".")[0])
    await page.page.reload()
    await enter(page, await keys.create("ann", ("generate",)), "The key that this browser kept does not count here")
    # then
    await page.ready()
    await page.button("Regenerate").click()
    answer = await player.take()
    await answer.finish(" No.###", reason=FinishReason.STOP)
    await page.shows(page.answer, "No.")


async def test_the_status_page_and_the_keyboard(page: ChatPage, guarded: Served, keys: ApiKeys, player: Player) -> None:
    await page.page.goto(f"{guarded.url}/status")
    dialog = page.page.get_by_role("dialog", name="An API key is needed")
    await expect(dialog.get_by_label("API key", exact=True)).to_be_focused()
    assert await violations(page.page) == []
    # nothing goes on without a key
    await page.page.keyboard.press("Escape")
    await expect(dialog).to_be_visible()
    await enter(page, await keys.create("ann", ("generate",)), "Who runs this service gave you one.")
    await page.ready()
    await page.shows(page.page.locator("#workers"), player.who.worker)
