"""How a page looks: pictures of it that are kept, and what is wrong with it."""

import contextlib
from collections.abc import AsyncIterator
from typing import Literal

from playwright.async_api import Browser

from tests.browser import ChatPage, chat_page
from tests.page.axe import violations
from tests.services import ROOT

PICTURES = ROOT / "var" / "pictures"
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


@contextlib.asynccontextmanager
async def looking(browser: Browser, width: int) -> AsyncIterator[ChatPage]:
    """A page of that width, which stands still."""
    async with chat_page(browser, viewport={"width": width, "height": 800}, reduced_motion="reduce") as page:
        yield page


async def check(page: ChatPage, name: str, width: int) -> None:
    """Keep pictures; nothing may be wider than the window, and axe may find nothing, light or dark."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for theme in THEMES:
        await page.page.emulate_media(color_scheme=theme)
        await page.page.screenshot(path=PICTURES / f"{name}-{width}-{theme}.png")
        # themes differ in nothing but colours
        assert await violations(page.page, *(["color-contrast"] if theme == "dark" else [])) == []
    assert await page.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
