"""Debian's Chromium, driven by Playwright, and the chat page as a person uses it."""

import contextlib
import dataclasses
import os
import re
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    TimeoutError,
    async_playwright,
    expect,
)

from gateway import assets

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# How long a test waits for what the page is to show, on a busy machine.
WAIT_S = 15
# What it says when interfaces of this machine come and go, which loses what is being loaded.
CHANGED = "net::ERR_NETWORK_CHANGED"
LOADS = 3
# What Chromium says by itself when a gateway or its broker is away, which some tests want.
AWAY = re.compile(
    r"WebSocket connection to .* failed|net::ERR_(CONNECTION_\w+|INTERNET_DISCONNECTED|EMPTY_RESPONSE)|status of 503"
)
# What it says by itself when a gateway asks for an API key.
REFUSED = re.compile(r"status of 40[13]")


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser; where there is none, or the page is not installed, the test is skipped, but fails in CI."""
    path = shutil.which("chromium")
    missing = assets.load().missing
    if path is None or missing:
        text = "chromium is not installed" if path is None else f"the page is not installed: {missing}"
        (pytest.fail if "CI" in os.environ else pytest.skip)(text)
    expect.set_options(timeout=1000 * WAIT_S)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        await browser.close()


@dataclasses.dataclass
class Complaints:
    """What the browser complained about: errors on the console, violations of the policy, exceptions."""

    found: list[str] = dataclasses.field(default_factory=list)
    gateway_may_be_away: bool = False
    may_be_refused: bool = False
    network_has_changed: bool = False

    def watch(self, page: Page) -> None:
        """Gather the complaints of a page."""
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.found.append(str(error)))

    def _hear(self, message: ConsoleMessage) -> None:
        if CHANGED in message.text:
            self.network_has_changed = True
        elif message.type in ("error", "warning") and not self._is_wanted(message.text):
            self.found.append(message.text)

    def _is_wanted(self, text: str) -> bool:
        expected = ((self.gateway_may_be_away, AWAY), (self.may_be_refused, REFUSED))
        return any(may_be and words.search(text) for may_be, words in expected)

    def forgive(self) -> bool:
        """Whether the network has changed; then what was complained about until now does not count."""
        has_changed, self.network_has_changed = self.network_has_changed, False
        if has_changed:
            self.found.clear()
        return has_changed


class ChatPage:
    """The page at / of one gateway."""

    def __init__(self, page: Page, complaints: Complaints) -> None:
        self.page = page
        self.complaints = complaints
        self.question = page.get_by_label("Your question").last
        self.notice = page.locator("#notice")
        self.messages = page.locator("#messages > li")
        self.answer = page.locator("#messages > li.assistant .text").last
        self.chats = page.locator("#chats li:not(.group):not(.none)")

    async def open(self, url: str) -> None:
        """Load the page; returns once it can be used."""
        await self.page.goto(url)
        await self.ready()

    async def ready(self) -> None:
        """Return once the page can be used."""
        for _ in range(LOADS - 1):
            with contextlib.suppress(TimeoutError):
                return await self._wait_until_ready()
            assert self.complaints.forgive(), "the page is not ready"
            await self.page.reload()
        return await self._wait_until_ready()

    async def _wait_until_ready(self) -> None:
        await self.page.wait_for_selector("html[data-ready]", timeout=1000 * WAIT_S)

    async def reload(self) -> None:
        """Load it anew."""
        await self.page.reload()
        await self.ready()

    async def ask(self, text: str) -> None:
        """Type a question and send it."""
        await self.question.fill(text)
        await self.question.press("Enter")

    async def shows(self, locator: Locator, text: str | re.Pattern[str], timeout_s: float = WAIT_S) -> None:
        """Return once an element holds this text."""
        await expect(locator).to_contain_text(text, timeout=1000 * timeout_s)

    async def is_idle(self, timeout_s: float = WAIT_S) -> None:
        """Return once no answer is being written."""
        await expect(self.button("Send")).to_be_visible(timeout=1000 * timeout_s)

    def button(self, name: str) -> Locator:
        """The button of that name."""
        return self.page.get_by_role("button", name=name, exact=True)

    async def set(self, **settings: str | int | float) -> None:
        """Change settings of the open chat."""
        await self.button("Settings of this chat").click()
        for name, value in settings.items():
            await self.page.locator(f"#settings [name={name}]").fill(str(value))
        await self.button("Keep").click()

    async def stop_the_clock(self) -> None:
        """Have the page's time, which Playwright keeps, go on by ten seconds, and then only when it is moved."""
        await self.page.clock.pause_at(await self.page.evaluate("Date.now() + 10_000"))

    async def kept(self) -> list[dict[str, Any]]:
        """The dialogues in the browser's store, the newest first."""
        found: list[dict[str, Any]] = await self.page.evaluate(KEPT)
        return sorted(found, key=lambda dialogue: -dialogue["changed"])

    async def text(self) -> str:
        """The last message of the newest dialogue, as it is kept."""
        return str((await self.kept())[0]["messages"][-1]["text"])


KEPT = """() => new Promise((resolve, reject) => {
  const opening = indexedDB.open("corolla");
  opening.onerror = () => reject(opening.error);
  opening.onsuccess = () => {
    const all = opening.result.transaction("chats").objectStore("chats").getAll();
    all.onsuccess = () => { opening.result.close(); resolve(all.result); };
  };
})"""


@contextlib.asynccontextmanager
async def chat_page(browser: Browser, **options: Any) -> AsyncIterator[ChatPage]:
    """A page of a browser that knows nothing yet; in the end nothing may have been complained about."""
    context: BrowserContext = await browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    complaints = Complaints()
    page = await context.new_page()
    complaints.watch(page)
    try:
        yield ChatPage(page, complaints)
    finally:
        with contextlib.suppress(Error):
            await context.close()
    assert not complaints.found, complaints.found
