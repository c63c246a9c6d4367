"""What people are told while they wait and when something goes wrong, and how an answer survives it."""

import asyncio
import re

import pytest
from playwright.async_api import Browser, Route, expect

from shared.broker import Broker
from shared.errors import Code
from shared.messages import FinishReason, JobFailed
from tests.browser import ChatPage, chat_page
from tests.gateway.conftest import MODEL, Serve, Served
from tests.gateway.player import Player

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

# The browser is that fast in one time of two.
LEFT_AT_ONCE = 8
KEEP_AND_LEAVE = """() => {
  setTimeout(() => {
    location.replace("about:blank");
    document.querySelector("#settings form").requestSubmit();
  }, 0);
}"""


async def fail(page: ChatPage, player: Player, code: Code, text: str) -> None:
    """Ask, and have the answer fail after a word."""
    await page.ask("hi")
    answer = await player.take()
    await answer.say(" Well")
    await answer.say(ending=JobFailed(code, text))


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        (Code.CACHE_FULL, "attention cache is full", "The swarm is out of capacity."),
        (Code.POISON, "The request was given up", "The request was given up"),
    ],
)
async def test_errors_are_told_in_words_and_can_be_retried(
    page: ChatPage, player: Player, code: Code, text: str, words: str
) -> None:
    # when
    await fail(page, player, code, text)
    # then
    alert = page.page.get_by_role("alert")
    await page.shows(alert, words)
    assert "Error" not in await alert.inner_text()
    # when
    await page.button("Try again").click()
    # then the answer goes on where it was
    again = await player.take()
    assert str(again.claim.request.prompt).endswith("Human: hi###Assistant: Well")
    await again.finish(" done.###", reason=FinishReason.STOP)
    await expect(page.answer).to_have_text("Well done.")
    await expect(alert).to_have_count(0)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("max_waiting_per_client", "You have many questions waiting already."),
        ("max_waiting", "Too many people are asking at the moment."),
    ],
)
async def test_a_limit_is_told_and_what_was_asked_is_kept(
    browser: Browser, serve: Serve, player: Player, setting: str, words: str
) -> None:
    async with serve(**{setting: 0}) as gateway, chat_page(browser) as page:
        await page.open(gateway.url)
        await page.ask("hi")
        await page.shows(page.page.get_by_role("alert"), words)
        await expect(page.messages.first.locator(".text")).to_have_text("hi")
        await expect(page.button("Try again")).to_be_visible()


@pytest.mark.parametrize("setting", ["requests_per_min", "tokens_per_min"])
async def test_a_rate_is_told(browser: Browser, serve: Serve, player: Player, setting: str) -> None:
    async with serve(**{setting: 1}) as gateway, chat_page(browser) as page, player.playing(" Yes.", "###"):
        await page.open(gateway.url)
        await page.ask("one")
        await page.is_idle()
        await page.ask("two")
        await page.shows(page.page.get_by_role("alert"), "You have asked for as much as you may within a minute.")


async def test_nobody_serves_the_model(browser: Browser, gateway: Served, broker: Broker) -> None:
    async with chat_page(browser) as page:
        await page.open(gateway.url)
        await page.ask("hi")
        await page.shows(page.notice, "Nobody serves Demo at the moment.")
        # when a worker comes
        player = Player(broker, (MODEL,))
        answer = await player.take()
        await answer.finish(" Here I am.###", reason=FinishReason.STOP)
        # then
        await expect(page.answer).to_have_text("Here I am.")


async def test_nobody_is_missed_who_came_since(browser: Browser, gateway: Served, broker: Broker) -> None:
    async with chat_page(browser) as page:
        # given a page that knows of no worker, and does not hear so soon of the one that comes
        await page.open(gateway.url)
        player = Player(broker, (MODEL,))
        await player.enter()
        may_be_told = asyncio.Event()

        async def tell_later(route: Route) -> None:
            await may_be_told.wait()
            await route.continue_()

        await page.page.route("**/api/v1/models", tell_later)
        # when
        await page.ask("hi")
        # then
        await page.shows(page.notice, re.compile("In the queue|Thinking"))
        may_be_told.set()
        answer = await player.take()
        await answer.finish(" Yes.###", reason=FinishReason.STOP)
        await expect(page.answer).to_have_text("Yes.")


async def test_the_place_in_the_queue(page: ChatPage, player: Player) -> None:
    await page.ask("hi")
    await page.shows(page.notice, "In the queue: place 1")
    answer = await player.take()
    await answer.say(" Hi")
    await page.shows(page.notice, re.compile("Writing|tokens per second"))
    await answer.finish("###", reason=FinishReason.STOP)


async def test_a_slow_swarm_asks_for_help(page: ChatPage, player: Player) -> None:
    await page.page.clock.install()
    await page.ask("hi")
    answer = await player.take()
    await answer.say(" one")
    await page.shows(page.answer, "one")
    await page.page.clock.run_for(4000)
    await answer.say(" two")
    await page.shows(page.answer, "two")
    await page.page.clock.run_for(1000)
    await page.shows(page.notice, re.compile(r"0\.[12] tokens per second"))
    await expect(page.notice.get_by_role("link", name="Too slow? Connect your GPU")).to_be_visible()
    await answer.finish("###", reason=FinishReason.STOP)
    await page.is_idle()


async def test_a_long_dialogue_grows_its_session_and_then_offers_a_new_one(page: ChatPage, player: Player) -> None:
    full = JobFailed(Code.TOO_LONG, "Maximum length exceeded: prefix 500 + current 20 exceeds maximum 512")
    # given a session that is too short
    await page.ask("hi")
    answer = await player.take()
    assert answer.claim.session
    assert answer.claim.session.max_length == 512
    await answer.say(" Well", ending=full)
    # then a longer one is made without a word
    answer = await player.take()
    assert answer.claim.session
    assert answer.claim.session.max_length == 2048
    assert str(answer.claim.request.prompt).endswith("Human: hi###Assistant: Well")
    # when even the longest is too short
    await answer.say(", well", ending=full)
    # then
    await page.shows(page.notice, "This chat is as long as the model can remember.")
    await page.button("New chat with a summary").click()
    await expect(page.messages).to_have_count(0)
    await page.page.get_by_text("What the model is told of the chat before").click()
    await page.shows(page.page.locator("#note p"), "Human: hi Assistant: Well, well")
    await page.ask("and then?")
    answer = await player.take()
    summary = "Summary of the conversation so far: Human: hi Assistant: Well, well"
    assert f"{summary}###Assistant: Hi! How can I help you?###Human: and then?###Assistant:" in str(
        answer.claim.request.prompt
    )
    await answer.finish(" This.###", reason=FinishReason.STOP)
    await page.is_idle()


async def test_a_reload_in_mid_answer(page: ChatPage, player: Player) -> None:
    # given
    await page.ask("hi")
    answer = await player.take()
    await answer.say(" one", " two")
    await page.shows(page.answer, "one two")
    # when
    await page.reload()
    await answer.say(" three")
    # then
    await page.shows(page.answer, "one two three")
    await answer.finish(" four", "###", reason=FinishReason.STOP)
    await page.is_idle()
    await expect(page.answer).to_have_text("one two three four")
    assert await page.text() == " one two three four"


async def test_settings_that_are_changed_in_mid_answer_count_from_the_next_one_on(
    page: ChatPage, player: Player
) -> None:
    # given
    await page.ask("hi")
    answer = await player.take()
    prompt = answer.claim.request.prompt
    await answer.say(" one")
    await page.shows(page.answer, "one")
    await page.set(system="Be brief.", temperature="0.25")
    # when the page is left, and the answer has to be asked for again
    await page.reload()
    await answer.say(ending=JobFailed(Code.DISCONTINUITY, "The stream was interrupted and cannot go on exactly"))
    # then
    again = await player.take()
    assert again.claim.request.prompt == f"{prompt} one"
    assert again.claim.request.sampling.temperature == 0.6
    await again.finish(" two###", reason=FinishReason.STOP)
    await page.is_idle()
    await page.ask("more")
    more = await player.take()
    assert str(more.claim.request.prompt).startswith("Be brief.###")
    await more.finish(" three###", reason=FinishReason.STOP)
    await page.is_idle()


async def test_settings_are_kept_by_a_page_that_is_left_at_once(page: ChatPage, player: Player) -> None:
    # given
    await page.ask("hi")
    answer = await player.take()
    await answer.finish(" one###", reason=FinishReason.STOP)
    await page.is_idle()
    url = page.page.url
    for system in map(str, range(LEFT_AT_ONCE)):
        await page.button("Settings of this chat").click()
        await page.page.locator("#settings [name=system]").fill(system)
        # when
        await page.page.evaluate(KEEP_AND_LEAVE)
        await page.page.wait_for_url("about:blank")
        # then
        await page.open(url)
        assert (await page.kept())[0]["system"] == system


async def test_a_reload_before_the_first_word(page: ChatPage, player: Player) -> None:
    # given
    await page.ask("hi")
    await page.shows(page.notice, "In the queue")
    # when
    await page.reload()
    # then
    await expect(page.answer).to_have_text("")
    answer = await player.take()
    await answer.finish(" one", "###", reason=FinishReason.STOP)
    await expect(page.answer).to_have_text("one")
    assert not await player.is_offered_more()


async def test_offline_and_online_again(page: ChatPage, player: Player) -> None:
    page.complaints.gateway_may_be_away = True
    # given
    await page.ask("hi")
    answer = await player.take()
    await answer.say(" one")
    await page.shows(page.answer, "one")
    # when
    await page.page.context.set_offline(True)
    await page.shows(page.notice, "You are offline. The answer goes on when you are back.")
    await answer.say(" two")
    await page.page.context.set_offline(False)
    # then
    await page.shows(page.answer, "one two")
    await answer.finish(" three###", reason=FinishReason.STOP)
    await expect(page.answer).to_have_text("one two three")


async def test_a_gateway_that_goes_away_for_good(browser: Browser, serve: Serve, player: Player) -> None:
    # given
    async with chat_page(browser) as page:
        page.complaints.gateway_may_be_away = True
        async with serve() as gateway:
            await page.open(gateway.url)
            await page.page.clock.install()
            await page.ask("hi")
            answer = await player.take()
            await answer.say(" one")
            await page.shows(page.answer, "one")
            await page.stop_the_clock()
        # when
        await page.shows(page.notice, "The connection is lost. Trying again (1)")
        for attempt in range(2, 11):
            await page.page.clock.fast_forward(11_000)
            await page.shows(page.notice, f"({attempt})")
        await page.page.clock.fast_forward(11_000)
        # then it gives up, and keeps what is there
        await page.shows(page.page.get_by_role("alert"), "What was written so far is kept")
        await expect(page.answer).to_have_text("one")
        await page.is_idle()


async def test_an_expired_session_is_made_again(page: ChatPage, player: Player, broker: Broker) -> None:
    # given
    await page.ask("hi")
    first = await player.take()
    await first.finish(" Hello.###", reason=FinishReason.STOP)
    await page.is_idle()
    assert first.claim.session
    # when
    await broker.close_session(first.claim.session.id)
    await page.ask("more")
    # then
    second = await player.take()
    assert str(second.claim.request.prompt).endswith("Human: hi###Assistant: Hello.###Human: more###Assistant:")
    await second.finish(" Yes.###", reason=FinishReason.STOP)
    await expect(page.answer).to_have_text("Yes.")


async def test_a_browser_that_is_too_old_is_told_so(browser: Browser, gateway: Served) -> None:
    async with chat_page(browser) as page:
        await page.page.add_init_script("delete Map.groupBy")
        await page.page.route("**/app.js", lambda route: route.abort())  # which it could not read
        await page.page.goto(gateway.url)
        await page.shows(page.notice, "This browser is too old for this page")
        page.complaints.found.clear()


async def test_a_gateway_that_does_not_answer_from_the_beginning(browser: Browser, gateway: Served) -> None:
    async with chat_page(browser) as page:
        page.complaints.gateway_may_be_away = True
        await page.page.route("**/api/v1/models", lambda route: route.abort())
        await page.page.goto(gateway.url)
        await page.shows(page.page.get_by_role("alert"), "The page could not begin")
        page.complaints.found.clear()
        await page.page.unroute("**/api/v1/models")
        await page.page.get_by_role("link", name="Try again").click()
        await page.ready()
