"""How the pages look, on a phone and a desk, light and dark: axe finds nothing, and pictures are kept."""

import pytest
from playwright.async_api import Browser

from shared.errors import Code
from shared.heart import Heart
from shared.messages import JobFailed
from shared.reports import Coverage, Report
from tests.gateway.conftest import MODEL, TIMING, Served
from tests.gateway.player import Player
from tests.page.looks import check, looking
from tests.valkey import Valkey

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

ANSWER = """ Here is **how** it works, with `code` in a line and a [link](https://example.com/card).

## A heading

1. First, a list
   - with another one inside
2. and a second point

```python
def greet(name: str) -> str:
    \"\"\"Say hello.\"\"\"
    return f"Hello, {name}!"  # a comment that is so long that a phone has to scroll it sideways, by itself
```

> A quotation of somebody.

| Block | Server | Speed |
|------:|--------|-------|
| 0     | one    | 1,200 |
| 1     | two    | 980   |

The area is \\( \\pi r^2 \\), and

$$
\\int_0^1 x^2 \\, dx = \\frac{1}{3}
$$
"""


@pytest.fixture(params=[320, 1440])
def width(request: pytest.FixtureRequest) -> int:
    """Of the window, in pixels."""
    found: int = request.param
    return found


async def test_the_chat(browser: Browser, gateway: Served, player: Player, width: int) -> None:
    async with looking(browser, width) as page:
        await page.open(gateway.url)
        await check(page, "welcome", width)
        # a whole answer
        async with player.playing(ANSWER, "###"):
            await page.ask("How does it work?")
            await page.is_idle()
        await page.page.wait_for_selector(".hljs-keyword")
        await check(page, "answer", width)
        # one that is being written
        await page.ask("And what does that mean for an answer that takes a while?")
        answer = await player.take()
        await answer.say(" It means that", " you see it", " grow.")
        await page.shows(page.answer, "grow.")
        await check(page, "writing", width)
        # one that failed
        await answer.say(ending=JobFailed(Code.CACHE_FULL, "full"))
        await page.page.get_by_role("alert").wait_for()
        await check(page, "trouble", width)


async def test_panels(browser: Browser, gateway: Served, player: Player, width: int) -> None:
    async with looking(browser, width) as page:
        await page.open(gateway.url)
        async with player.playing(" Yes.", "###"):
            for question in ("What is Corolla?", "كيف حالك اليوم؟ أريد أن أعرف شيئًا عن السرب"):
                await page.ask(question)
                await page.is_idle()
                await page.page.evaluate("history.pushState(null, '', '/'); dispatchEvent(new Event('popstate'))")
        if width < 800:
            await page.button("Chats").click()
        await page.chats.first.get_by_role("link").click()
        await page.shows(page.answer, "Yes.")
        await check(page, "right-to-left", width)
        if width < 800:
            await page.button("Chats").click()
            await page.page.locator("#sidebar.open").wait_for()
            await check(page, "sidebar", width)
            await page.button("Close the list").click()
        await page.button("Settings of this chat").click()
        await check(page, "settings", width)


async def test_the_status(browser: Browser, gateway: Served, player: Player, valkey: Valkey, width: int) -> None:
    heart = Heart(valkey.url, player.who, TIMING)
    servers = tuple([1] * 12 + [3] * 20 + [0] * 3 + [2] * 25 + [4] * 8 + [1] * 12)
    heart.beat([], 30, Report(5.25, {MODEL: Coverage(servers, 3.0), "corolla/adapter": Coverage((2, 1, 1, 2), 3.0)}))
    heart.close()
    async with looking(browser, width) as page:
        await page.open(f"{gateway.url}/status")
        await page.shows(page.page.locator("#state"), "The swarm lacks blocks of Demo.")
        await check(page, "status", width)
