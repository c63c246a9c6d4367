"""The same chats in two pages of one browser."""

import asyncio

import pytest
from playwright.async_api import expect

from shared.messages import FinishReason
from tests.browser import ChatPage
from tests.gateway.player import Performance, Player

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


# Long enough for a chat to be deleted.
STALL = "() => { for (const end = Date.now() + 1500; Date.now() < end; ); }"
BLUR_AND_LEAVE = """() => {
  setTimeout(() => {
    location.replace("about:blank");
    document.activeElement.blur();
  }, 0);
}"""


@pytest.fixture
async def other(page: ChatPage) -> ChatPage:
    """A second page of the browser that `page` is in."""
    tab = await page.page.context.new_page()
    page.complaints.watch(tab)
    return ChatPage(tab, page.complaints)


async def begun(page: ChatPage, player: Player) -> Performance:
    """An answer that is being written."""
    await page.ask("hi")
    answer = await player.take()
    await answer.say(" one")
    await page.shows(page.answer, "one")
    return answer


async def rename(page: ChatPage, title: str, other: str) -> None:
    """Type another title."""
    await page.page.bring_to_front()
    await page.chats.hover()
    await page.button(f"Rename {title}").click()
    await page.page.get_by_label("Title").fill(other)


async def test_both_follow_an_answer_and_each_goes_on_from_what_the_other_did(
    page: ChatPage, other: ChatPage, player: Player
) -> None:
    # given an answer that is being written
    await page.ask("one")
    answer = await player.take()
    await answer.say(" first")
    await page.shows(page.answer, "first")
    # when the chat is opened once more
    await other.open(page.page.url)
    await answer.say(" word")
    # then both show it
    await expect(page.answer).to_have_text("first word")
    await expect(other.answer).to_have_text("first word")
    await answer.finish("###", reason=FinishReason.STOP)
    await page.is_idle()
    await other.is_idle()
    # when one goes on
    async with player.playing(" second", "###"):
        await page.ask("two")
        await expect(page.answer).to_have_text("second")
        await page.is_idle()
    # then the other knows
    await expect(other.answer).to_have_text("second")
    await other.ask("three")
    answer = await player.take()
    assert str(answer.claim.request.prompt).endswith(
        "###Human: one###Assistant: first word###Human: two###Assistant: second###Human: three###Assistant:"
    )
    await answer.finish(" third", "###", reason=FinishReason.STOP)
    await other.is_idle()
    await expect(page.answer).to_have_text("third")
    assert [message["text"] for message in (await page.kept())[0]["messages"]] == [
        "one",
        " first word",
        "two",
        " second",
        "three",
        " third",
    ]


async def test_a_chat_that_is_deleted_while_the_other_page_writes_it_does_not_come_back(
    page: ChatPage, other: ChatPage, player: Player
) -> None:
    # given
    answer = await begun(page, player)
    await other.open(page.page.url)
    await other.shows(other.answer, "one")
    # when it hears at once of the end, and of why
    stall = asyncio.create_task(page.page.evaluate(STALL))
    await other.chats.hover()
    await other.button("Delete hi").click()
    await answer.until_cancelled()
    await answer.finish(reason=FinishReason.CANCELLED)
    await stall
    # then
    await expect(page.chats).to_have_count(0)
    await expect(page.messages).to_have_count(0)
    await page.reload()
    await expect(page.chats).to_have_count(0)
    assert await page.kept() == []


async def test_a_chat_that_is_renamed_while_the_other_page_writes_it_keeps_its_name(
    page: ChatPage, other: ChatPage, player: Player
) -> None:
    # given
    answer = await begun(page, player)
    await other.open(page.page.url)
    # when
    await rename(other, "hi", "Greetings")
    await other.page.keyboard.press("Enter")
    # then
    await expect(page.chats).to_have_text(["Greetings"])
    await answer.finish(" two###", reason=FinishReason.STOP)
    for each in (page, other):
        await each.is_idle()
        await expect(each.answer).to_have_text("one two")
        await expect(each.chats).to_have_text(["Greetings"])
    (kept,) = await page.kept()
    assert kept["title"] == "Greetings"


async def test_what_a_page_keeps_as_it_is_left_is_told_to_the_other_one(
    page: ChatPage, other: ChatPage, player: Player
) -> None:
    # given
    async with player.playing(" Yes.", "###"):
        await page.ask("hi")
        await page.is_idle()
    url = page.page.url
    await other.open(url)
    # when
    await rename(page, "hi", "Greetings")
    await page.page.evaluate(BLUR_AND_LEAVE)
    await page.page.wait_for_url("about:blank")
    # then
    await expect(other.chats).to_have_text(["Greetings"])


async def test_a_chat_that_is_deleted_is_gone_everywhere(page: ChatPage, other: ChatPage, player: Player) -> None:
    # given
    async with player.playing(" Yes.", "###"):
        await page.ask("hi")
        await page.is_idle()
    await other.open(page.page.url)
    await expect(other.answer).to_have_text("Yes.")
    # when
    await page.page.bring_to_front()
    await page.chats.hover()
    await page.button("Delete hi").click()
    # then
    await expect(other.chats).to_have_count(0)
    await expect(other.messages).to_have_count(0)
