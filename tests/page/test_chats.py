"""Several chats, kept in the browser."""

import json
from pathlib import Path

import pytest
from playwright.async_api import expect

from shared.messages import FinishReason
from tests.browser import ChatPage
from tests.gateway.player import Player

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


async def chat(page: ChatPage, player: Player, question: str, answer: str) -> None:
    """A new chat of one turn."""
    await page.button("New chat").click()
    async with player.playing(f" {answer}", "###"):
        await page.ask(question)
        await expect(page.answer).to_have_text(answer)
        await page.is_idle()


async def test_chats_are_kept_and_found(page: ChatPage, player: Player) -> None:
    # given
    await chat(page, player, "What do cats eat?", "Mice.")
    await chat(page, player, "What do dogs eat?", "Bones.")
    await page.reload()
    # then
    await expect(page.chats).to_have_text(["What do dogs eat?", "What do cats eat?"])
    await expect(page.answer).to_have_text("Bones.")
    # when
    await page.page.get_by_label("Search chats").fill("mice")
    # then
    await expect(page.chats).to_have_text(["What do cats eat?"])
    await page.chats.get_by_role("link").click()
    await expect(page.answer).to_have_text("Mice.")
    # when
    await page.page.go_back()
    # then
    await expect(page.answer).to_have_text("Bones.")


async def test_rename_delete_and_undo(page: ChatPage, player: Player) -> None:
    await chat(page, player, "Hi?", "Yes.")
    await page.chats.hover()
    await page.button("Rename Hi?").click()
    await page.page.get_by_label("Title").fill("Greetings")
    await page.page.get_by_label("Title").press("Enter")
    await expect(page.chats).to_have_text(["Greetings"])
    await page.chats.hover()
    await page.button("Delete Greetings").click()
    await expect(page.chats).to_have_count(0)
    assert await page.kept() == []
    await page.button("Undo").click()
    await expect(page.answer).to_have_text("Yes.")
    assert (await page.kept())[0]["title"] == "Greetings"


async def test_a_question_that_was_not_sent_waits_in_its_chat(page: ChatPage, player: Player) -> None:
    await chat(page, player, "one", "Yes.")
    await page.question.fill("half a question")
    await page.button("New chat").click()
    await expect(page.question).to_have_value("")
    await page.question.fill("another")
    await page.chats.get_by_role("link").click()
    await expect(page.question).to_have_value("half a question")
    await page.button("New chat").click()
    await expect(page.question).to_have_value("another")
    # and is not there again once it was sent
    async with player.playing(" Yes.", "###"):
        await page.question.press("Enter")
        await page.is_idle()
    await page.button("New chat").click()
    await expect(page.question).to_have_value("")


async def test_a_new_name_or_setting_does_not_move_a_chat(page: ChatPage, player: Player) -> None:
    await chat(page, player, "one", "Yes.")
    await chat(page, player, "two", "Yes.")
    await page.chats.last.get_by_role("link").click()
    await page.set(temperature="0.5")
    await page.chats.last.hover()
    await page.button("Rename one").click()
    await page.page.get_by_label("Title").fill("uno")
    await page.page.get_by_label("Title").press("Enter")
    await expect(page.chats).to_have_text(["two", "uno"])


async def test_a_chat_that_was_deleted_in_mid_answer_can_be_gone_on_with(page: ChatPage, player: Player) -> None:
    # given
    await page.ask("hi")
    answer = await player.take()
    await answer.say(" one")
    await page.shows(page.answer, "one")
    # when
    await page.chats.hover()
    await page.button("Delete hi").click()
    await page.button("Undo").hover()  # or it goes after a time
    await answer.until_cancelled()
    await answer.finish(reason=FinishReason.CANCELLED)
    await page.button("Undo").click()
    # then
    await page.shows(page.answer, "one")
    await page.button("Continue").click()
    more = await player.take()
    assert str(more.claim.request.prompt).endswith("Human: hi###Assistant: one")
    await more.finish(" two###", reason=FinishReason.STOP)
    await expect(page.answer).to_have_text("one two")


async def test_a_browser_without_room_is_told_of_once(page: ChatPage, player: Player) -> None:
    await page.page.evaluate(
        "() => { IDBObjectStore.prototype.put = () => { throw new DOMException('full', 'QuotaExceededError') } }"
    )
    async with player.playing(" Yes.", "###"):
        await page.ask("hi")
        await page.shows(page.page.locator("#toast"), "This browser has no room left for your chats")
        await page.is_idle()
    await expect(page.answer).to_have_text("Yes.")


async def test_export_and_import(page: ChatPage, player: Player, tmp_path: Path) -> None:
    # given
    await chat(page, player, "Hi?", "Yes.")
    async with page.page.expect_download() as download:
        await page.button("Export").click()
    file = tmp_path / "chats.json"
    await (await download.value).save_as(file)
    assert json.loads(file.read_text())["chats"][0]["messages"][1]["text"] == " Yes."
    # when
    await page.chats.hover()
    await page.button("Delete Hi?").click()
    await page.page.locator("#file").set_input_files(file)
    # then
    await expect(page.chats).to_have_text(["Hi?"])
    await page.reload()
    await page.chats.get_by_role("link").click()
    await expect(page.answer).to_have_text("Yes.")
    # when it is no such file
    file.write_text("{}")
    await page.page.locator("#file").set_input_files(file)
    # then
    await page.shows(page.page.locator("#toast"), "holds no exported chats")


async def test_two_chats_write_at_the_same_time(page: ChatPage, player: Player) -> None:
    # given
    await page.ask("first")
    first = await player.take()
    await first.say(" one")
    await page.shows(page.answer, "one")
    # when
    await page.button("New chat").click()
    await page.ask("second")
    second = await player.take()
    await second.say(" two")
    # then
    await expect(page.answer).to_have_text("two")
    marks = page.chats.locator(".mark")
    assert await marks.evaluate_all("all => all.map(each => each.title)") == ["Is being written"] * 2
    await first.finish(" more###", reason=FinishReason.STOP)
    await second.finish(" as well###", reason=FinishReason.STOP)
    await expect(page.answer).to_have_text("two as well")
    await expect(marks).to_have_count(1)
    await expect(marks).to_have_attribute("aria-label", "Has a new answer")
    await page.chats.get_by_text("first").click()
    await expect(page.answer).to_have_text("one more")
    await expect(marks).to_have_count(0)
