"""The page in a browser, at a gateway whose worker says what a test tells it to say."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from tests.browser import ChatPage, chat_page, chromium
from tests.gateway.conftest import Served, broker, catalog, gateway, player, serve

__all__ = ["broker", "catalog", "gateway", "player", "serve"]


@pytest.fixture(scope="package")
async def browser() -> AsyncIterator[Browser]:
    """A browser."""
    async with chromium() as browser:
        yield browser


@pytest.fixture
async def page(browser: Browser, gateway: Served) -> AsyncIterator[ChatPage]:
    """The chat page, loaded."""
    async with chat_page(browser) as page:
        await page.open(gateway.url)
        yield page
