"""With the keyboard alone, and for those who do not see the page."""

import asyncio

import pytest
from playwright.async_api import expect

from shared.messages import FinishReason
from tests.browser import ChatPage
from tests.gateway.player import Player

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

# What can be seen and used, and what has the focus, each as a name.
USABLE = """() => Array.from(document.querySelectorAll('a[href], button, input, select, textarea, [tabindex="0"]'))
  .filter(element => element.checkVisibility({ visibilityProperty: true }) && !element.disabled)"""
FOCUS_RING = """element => {
  const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(element);
  const box = getComputedStyle(element.closest("form") ?? element);
  return (outlineStyle !== "none" && outlineWidth !== "0px") || boxShadow !== "none"
    || box.outlineStyle !== "none" || box.boxShadow !== "none";
}"""


async def test_everything_is_reached_and_seen_to_be(page: ChatPage, player: Player) -> None:
    # given a dialogue with code and a table
    async with player.playing(" ```python\nx = 1\n```\n\n|a|b|\n|-|-|\n|1|2|", "###"):
        await page.ask("hi")
        await page.is_idle()
    usable = await page.page.evaluate_handle(USABLE)
    count = await usable.evaluate("all => all.length")
    assert count > 15
    # when
    reached = await page.page.evaluate_handle("new Set()")
    for _ in range(count + 3):
        await page.page.keyboard.press("Tab")
        await reached.evaluate("reached => reached.add(document.activeElement)")
        if await page.page.evaluate("document.activeElement !== document.body"):
            assert await page.page.locator(":focus").evaluate(FOCUS_RING), await page.page.locator(
                ":focus"
            ).inner_html()
    # then
    missed = await usable.evaluate(
        "(all, reached) => all.filter(each => !reached.has(each)).map(e => e.outerHTML)", reached
    )
    assert missed == []


async def test_the_skip_link_leads_to_the_question_of_the_same_chat(page: ChatPage, player: Player) -> None:
    async with player.playing(" Yes.", "###"):
        await page.ask("hi")
        await page.is_idle()
    await page.page.locator(".skip").focus()
    await page.page.keyboard.press("Enter")
    await expect(page.question).to_be_focused()
    await expect(page.answer).to_have_text("Yes.")
    assert page.page.url.endswith(f"#{(await page.kept())[0]['id']}")


async def test_a_dialogue_with_keys_alone(page: ChatPage, player: Player) -> None:
    keys = page.page.keyboard
    # the question has the focus from the beginning
    await keys.type("first line")
    await keys.press("Shift+Enter")
    await keys.type("second line")
    await keys.press("Enter")
    answer = await player.take()
    assert "Human: first line\nsecond line###" in str(answer.claim.request.prompt)
    await answer.say(" one")
    await page.shows(page.answer, "one")
    # stop, and go on
    await keys.press("Escape")
    await answer.until_cancelled()
    await answer.finish(reason=FinishReason.CANCELLED)
    await page.button("Continue").focus()
    await keys.press("Enter")
    more = await player.take()
    await expect(page.question).to_be_focused()
    await more.finish(" two", "###", reason=FinishReason.STOP)
    await page.is_idle()
    # a new chat
    await keys.press("Control+Shift+O")
    await expect(page.messages).to_have_count(0)
    await expect(page.question).to_be_focused()


async def test_the_focus_is_never_lost(page: ChatPage, player: Player) -> None:
    keys, focus = page.page.keyboard, page.page.locator(":focus")
    async with player.playing(" Yes.", "###"):
        await page.ask("hi")
        await page.is_idle()
        # regenerate
        await page.button("Regenerate").focus()
        await keys.press("Enter")
        await page.is_idle()
        await expect(page.question).to_be_focused()
        # undo
        await page.button("Undo").focus()
        await keys.press("Enter")
        await expect(page.question).to_be_focused()
        # edit, and think better of it
        await page.button("Edit").focus()
        await keys.press("Enter")
        await expect(page.messages.first.get_by_role("textbox")).to_be_focused()
        await keys.press("Escape")
        await expect(page.button("Edit")).to_be_focused()
        # settings
        await page.button("Settings of this chat").focus()
        await keys.press("Enter")
        await expect(page.page.locator("#settings")).to_be_visible()
        await keys.press("Escape")
        await expect(page.button("Settings of this chat")).to_be_focused()
        # rename
        await page.button("Rename hi").focus()
        await keys.press("Enter")
        await keys.type("Better")
        await keys.press("Enter")
        await expect(page.button("Rename Better")).to_be_focused()
        # delete, and undo
        await page.button("Delete Better").focus()
        await keys.press("Enter")
        await expect(page.chats).to_have_count(0)
        await expect(focus).to_have_count(1)
        await page.button("Undo").focus()
        await keys.press("Enter")
        await page.shows(page.answer, "Yes.")
        await expect(focus).to_have_count(1)


async def test_the_end_is_followed_until_somebody_scrolls_up(page: ChatPage, player: Player) -> None:
    # given a long answer
    await page.ask("hi")
    answer = await player.take()
    await answer.say(*[f" {number}\n\n" for number in range(99)])
    await page.shows(page.answer, "98")
    end = "({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight"
    scroller = page.page.get_by_role("region", name="Messages")
    await expect(page.button("To the end")).to_be_hidden()
    assert await scroller.evaluate(end) < 2
    # when somebody scrolls up a little
    await scroller.evaluate("scroller => scroller.scrollBy(0, -40)")
    await expect(page.button("To the end")).to_be_visible()
    await answer.say(" more\n\n")
    await page.shows(page.answer, "more")
    # then the view stays, until they want the end again; and the focus is not lost with the button
    assert await scroller.evaluate(end) >= 40
    await page.button("To the end").focus()
    await page.page.keyboard.press("Enter")
    await expect(scroller).to_be_focused()
    await expect(page.button("To the end")).to_be_hidden()
    assert await scroller.evaluate(end) < 2
    await answer.finish("###", reason=FinishReason.STOP)
    await page.is_idle()


async def test_an_answer_is_read_out_by_sentences(page: ChatPage, player: Player) -> None:
    await listen(page)
    await page.ask("hi")
    assert await heard(page, 1) == ["In the queue: place 1"]
    answer = await player.take()
    # when
    await answer.say(" The *first* sentence.", " And half")
    assert await heard(page, 2) == ["In the queue: place 1", "The  first  sentence."]
    await answer.finish(" of another", "###", reason=FinishReason.STOP)
    # then
    assert await heard(page, 3) == ["In the queue: place 1", "The  first  sentence.", "And half of another"]
    # and what follows begins anew, also in another chat
    await page.button("New chat").click()
    async with player.playing(" Short.", "###"):
        await page.ask("and now")
        await page.is_idle()
    assert (await heard(page, 4))[3:] == ["Short."]


async def test_what_happens_to_an_answer_is_read_out_once(page: ChatPage, player: Player) -> None:
    page.complaints.gateway_may_be_away = True
    await listen(page)
    taking = asyncio.create_task(player.take())  # before, so that there is nothing to tell of a queue
    await page.ask("hi")
    answer = await taking
    await answer.say(" one")
    await page.shows(page.answer, "one")
    # when
    await page.page.context.set_offline(True)
    await heard(page, 1)
    await page.page.context.set_offline(False)
    await heard(page, 2)
    await page.button("Stop").click()
    await answer.until_cancelled()
    await answer.finish(reason=FinishReason.CANCELLED)
    # then
    assert await heard(page, 3) == [
        "You are offline. The answer goes on when you are back.",
        "The connection is back.",
        "one Stopped.",
    ]
    # and what is gone on with is read out from where it was, whatever was read in other chats
    await page.button("New chat").click()
    async with player.playing(" A longer answer.", "###"):
        await page.ask("and now")
        await page.is_idle()
    assert (await heard(page, 4))[3:] == ["A longer answer."]
    await page.chats.last.get_by_role("link").click()
    assert (await heard(page, 5))[4:] == ["Stopped."]
    async with player.playing(" two.", "###"):
        await page.button("Continue").click()
        await page.is_idle()
    assert (await heard(page, 6))[5:] == ["two."]


async def listen(page: ChatPage) -> None:
    """Keep what a screen reader would hear."""
    await page.page.evaluate(
        """() => {
          window.heard = [];
          const region = document.querySelector("[aria-live=polite]");
          new MutationObserver(() => window.heard.push(region.textContent)).observe(region, { childList: true });
        }"""
    )


async def heard(page: ChatPage, count: int) -> list[str]:
    """All that was to be heard, once it is so much."""
    await page.page.wait_for_function(f"() => window.heard.length >= {count}")
    found: list[str] = await page.page.evaluate("window.heard.map(text => text.trim())")
    return found


async def test_the_list_on_a_phone(page: ChatPage, player: Player) -> None:
    keys = page.page.keyboard
    await page.page.set_viewport_size({"width": 320, "height": 600})
    await page.button("Chats").focus()
    await keys.press("Enter")
    await expect(page.button("New chat")).to_be_focused()
    await keys.press("Escape")
    await expect(page.button("Chats")).to_be_focused()
    await expect(page.button("Chats")).to_have_attribute("aria-expanded", "false")
    # what is not seen cannot be reached
    await expect(page.button("New chat")).not_to_be_visible()
    # a click on the open chat leads to it
    async with player.playing(" Yes.", "###"):
        await page.ask("hi")
        await page.is_idle()
    await page.button("Chats").click()
    await expect(page.button("Chats")).to_have_attribute("aria-expanded", "true")
    await page.chats.get_by_role("link").click()
    await expect(page.button("New chat")).not_to_be_visible()
    await expect(page.button("Chats")).to_have_attribute("aria-expanded", "false")


async def test_escape_stops_nothing_where_it_does_something_else(page: ChatPage, player: Player) -> None:
    # given an answer that is being written
    keys = page.page.keyboard
    await page.ask("hi")
    answer = await player.take()
    await answer.say(" one")
    await page.shows(page.answer, "one")
    # when
    await page.page.get_by_label("Search chats").fill("hi")
    await keys.press("Escape")
    await page.button("Settings of this chat").click()
    await keys.press("Escape")
    await page.page.evaluate(
        "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', isComposing: true, bubbles: true }))"
    )
    # then
    await answer.say(" two")
    await page.shows(page.answer, "one two")
    assert not await answer.is_cancelled()
    await answer.finish("###", reason=FinishReason.STOP)
    await page.is_idle()


async def test_a_click_elsewhere_ends_a_renaming_and_takes_the_focus(page: ChatPage, player: Player) -> None:
    async with player.playing(" Yes.", "###"):
        await page.ask("hi")
        await page.is_idle()
    await page.chats.hover()
    await page.button("Rename hi").click()
    await page.page.get_by_label("Title").fill("Better")
    await page.question.click()
    await expect(page.chats).to_have_text(["Better"])
    await expect(page.question).to_be_focused()
