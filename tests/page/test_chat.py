"""Asking, reading, stopping, and everything else that makes up a dialogue."""

import pytest
from playwright.async_api import expect

from shared.messages import FinishReason
from tests.browser import ChatPage
from tests.gateway.player import Player

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

OPENING = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
    "###Assistant: Hi! How can I help you?###"
)


async def test_an_answer_comes_word_by_word(page: ChatPage, player: Player) -> None:
    # when
    await page.ask("hi")
    answer = await player.take()
    # then
    assert answer.claim.request.prompt == f"{OPENING}Human: hi###Assistant:"
    await answer.say(" Good")
    await page.shows(page.answer, "Good")
    await answer.say(" mor", "ning")
    await page.shows(page.answer, "Good morning")
    await answer.finish(".", "###", reason=FinishReason.STOP)
    await page.is_idle()
    await expect(page.answer).to_have_text("Good morning.")
    assert await page.text() == " Good morning."


async def test_a_second_turn_sends_only_what_is_new(page: ChatPage, player: Player) -> None:
    # given
    await page.ask("hi")
    first = await player.take()
    await first.finish(" Hello.", "###", reason=FinishReason.STOP)
    await page.is_idle()
    # when
    await page.ask("and now?")
    second = await player.take()
    # then
    assert second.claim.request.prompt == "Human: and now?###Assistant:"
    assert first.claim.session
    assert second.claim.session
    assert second.claim.session.id == first.claim.session.id
    await second.finish(" Nothing.###", reason=FinishReason.STOP)
    await page.is_idle()
    await expect(page.answer).to_have_text("Nothing.")


async def test_stop_and_continue(page: ChatPage, player: Player) -> None:
    # given
    await page.ask("count")
    answer = await player.take()
    await answer.say(" one", " two")
    await page.shows(page.answer, "one two")
    # when
    await page.button("Stop").click()
    await answer.until_cancelled()
    await answer.finish(reason=FinishReason.CANCELLED)
    # then
    await page.is_idle()
    await page.shows(page.notice, "Stopped.")
    # when
    await page.button("Continue").click()
    more = await player.take()
    # then the session goes on with nothing new
    assert more.claim.request.prompt is None
    await more.finish(" three", "###", reason=FinishReason.STOP)
    await page.is_idle()
    await expect(page.answer).to_have_text("one two three")


async def test_regenerate_and_undo(page: ChatPage, player: Player) -> None:
    # given
    async with player.playing(" first", "###"):
        await page.ask("hi")
        await page.is_idle()
        await expect(page.answer).to_have_text("first")
    # when
    await page.button("Regenerate").click()
    await page.button("Undo").hover()  # or it goes after a time
    again = await player.take()
    # then
    assert again.claim.request.prompt == f"{OPENING}Human: hi###Assistant:"
    await again.finish(" second###", reason=FinishReason.STOP)
    await page.is_idle()
    await expect(page.answer).to_have_text("second")
    assert await page.messages.count() == 2
    # when
    await page.button("Undo").click()
    # then
    await expect(page.answer).to_have_text("first")
    # and a further question cannot be undone with it
    async with player.playing(" third", "###"):
        await page.button("Regenerate").click()
        await page.is_idle()
        await expect(page.button("Undo")).to_be_visible()
        await page.ask("more")
        assert await page.button("Undo").count() == 0
        await page.is_idle()


async def test_edit_a_question_and_go_on_from_there(page: ChatPage, player: Player) -> None:
    # given two turns
    async with player.playing(" answer", "###"):
        for question in ("one", "two"):
            await page.ask(question)
            await page.is_idle()
    # when
    await page.messages.first.hover()
    await page.button("Edit").first.click()
    await page.messages.first.get_by_role("textbox").fill("uno")
    await page.button("Send").first.click()
    # then
    again = await player.take()
    assert again.claim.request.prompt == f"{OPENING}Human: uno###Assistant:"
    await again.finish(" risposta###", reason=FinishReason.STOP)
    await expect(page.answer).to_have_text("risposta")
    assert await page.messages.count() == 2


async def test_another_model_may_be_chosen_while_one_writes(page: ChatPage, player: Player) -> None:
    # given
    await page.ask("hi")
    answer = await player.take()
    await answer.say(" from")
    # when
    await page.page.get_by_label("Model", exact=True).select_option("corolla/adapter")
    # then the answer goes on
    await answer.finish(" Demo", "###", reason=FinishReason.STOP)
    await page.is_idle()
    await expect(page.answer).to_have_text("from Demo")
    # and the next one is the other model's, with the whole dialogue
    await page.ask("and you?")
    other = await player.take()
    assert other.claim.request.model == "corolla/adapter"
    assert other.claim.request.prompt == f"{OPENING}Human: hi###Assistant: from Demo###Human: and you?###Assistant:"
    await other.finish(" Secret", "###", reason=FinishReason.STOP)
    await expect(page.answer).to_have_text("Secret")


async def test_settings_of_a_chat(page: ChatPage, player: Player) -> None:
    await page.set(system="Be brief.", temperature="0.25", seed="7")
    await page.ask("hi")
    answer = await player.take()
    assert answer.claim.request.prompt == "Be brief.###Assistant: Hi! How can I help you?###Human: hi###Assistant:"
    sampling = answer.claim.request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.25, 0.9, 7)
    await answer.finish(" Yes.###", reason=FinishReason.STOP)
    await page.is_idle()


async def test_settings_say_what_does_nothing(page: ChatPage) -> None:
    words = "While the most likely word is chosen, temperature, top p, top k and seed change nothing."
    await page.button("Settings of this chat").click()
    await expect(page.page.locator("#greedy")).to_have_text("")
    await page.page.get_by_label("Always the most likely word").check()
    await expect(page.page.locator("#greedy")).to_have_text(words)
    await page.page.get_by_label("Sample: varied").check()
    await expect(page.page.locator("#greedy")).to_have_text("")


async def test_models_by_family_with_card_and_licence(page: ChatPage) -> None:
    choice = page.page.get_by_label("Model", exact=True)
    groups = await choice.evaluate(
        "select => Array.from(select.children, group => [group.label, ...Array.from(group.children, one => one.text)])"
    )
    assert groups == [["First", "Demo (offline)"], ["Second", "Secret (offline)"]]
    links = page.page.locator("#model-links")
    assert await links.get_by_role("link", name="Model card").get_attribute("href") == "https://example.com/card"
    await expect(links).to_have_text("Model cardLicence: MIT")
    await choice.select_option("Secret (offline)")
    await expect(links).to_have_text("")


async def test_light_or_dark_is_kept(page: ChatPage) -> None:
    root = page.page.locator("html")
    await expect(root).to_have_attribute("data-theme", "light")
    await page.button("Light or dark").click()
    await expect(root).to_have_attribute("data-theme", "dark")
    await page.reload()
    await expect(root).to_have_attribute("data-theme", "dark")
