"""The page at /status: it tells what lives without being loaded again."""

import pytest
from playwright.async_api import Browser, expect

from shared.broker import Broker
from shared.heart import Heart
from shared.reports import Coverage, Report
from tests.browser import chat_page
from tests.gateway.conftest import MODEL, TIMING, Serve, Served
from tests.gateway.player import Player
from tests.valkey import Valkey

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


async def test_it_follows_what_happens(browser: Browser, gateway: Served, broker: Broker, valkey: Valkey) -> None:
    async with chat_page(browser) as page:
        # given
        await page.open(f"{gateway.url}/status")
        state = page.page.locator("#state")
        sums = page.page.locator("#sums")
        await page.shows(state, "Nobody serves Demo, Secret at the moment.")
        await page.shows(page.page.locator("#workers"), "There is no live worker.")
        await expect(page.page.locator("#gateways li")).to_have_count(1)
        # when a worker comes, and a swarm that lacks the last of three blocks
        player = Player(broker, (MODEL, "corolla/adapter"))
        await player.enter()
        heart = Heart(valkey.url, player.who, TIMING)
        heart.beat([], 30, Report(5.25, {MODEL: Coverage((2, 1, 0), 1.0)}))
        # then
        await page.shows(state, "The swarm lacks blocks of Demo.")
        await page.shows(sums, "5.3")
        await page.shows(page.page.locator("#workers tbody tr"), "2 / 32")
        bars = page.page.get_by_role("img").locator("span")
        assert await bars.evaluate_all("bars => bars.map(bar => [bar.title, bar.style.height])") == [
            ["Block 0: 2 servers", "100%"],
            ["Block 1: 1 server", "50%"],
            ["Block 2: 0 servers", "100%"],
        ]
        await page.shows(page.page.locator("#models"), "Nobody holds block 2.")
        # when somebody holds it
        heart.beat([], 30, Report(0.0, {MODEL: Coverage((2, 1, 1), 1.0)}))
        heart.close()
        # then
        await page.shows(state, "Everything is there.")
        await page.shows(page.page.locator("#models"), "3 blocks, each on 1 to 2 servers.")


async def test_a_broker_and_a_gateway_that_do_not_answer(
    browser: Browser, serve: Serve, player: Player, valkey: Valkey
) -> None:
    async with chat_page(browser) as page:
        page.complaints.gateway_may_be_away = True
        state = page.page.locator("#state")
        async with serve() as gateway:
            await page.open(f"{gateway.url}/status")
            await page.shows(page.page.locator("#workers"), player.who.worker)
            valkey.kill()
            try:
                await page.shows(state, "The gateway cannot reach its broker. Below is what it knew last.")
            finally:
                valkey.start()
            await page.shows(page.page.locator("#workers"), player.who.worker)
        await page.shows(state, "The gateway does not answer. Below is what it told last.")
        await page.shows(page.page.locator("#workers"), player.who.worker)
