"""What models write: markdown, code, formulas, what would do harm, other directions, and copies of it."""

import pytest
from playwright.async_api import expect

from shared.messages import FinishReason
from tests.browser import ChatPage
from tests.gateway.player import Player
from tests.page.hostile import HOSTILE, assert_harmless, foreign_requests

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


async def answered(page: ChatPage, player: Player, text: str, question: str = "hi") -> None:
    """A whole answer, in pieces of seven characters."""
    pieces = [text[start : start + 7] for start in range(0, len(text), 7)]
    async with player.playing(*pieces, "###"):
        await page.ask(question)
        await page.is_idle()


async def test_nothing_that_a_model_writes_does_harm(page: ChatPage, player: Player) -> None:
    foreign = foreign_requests(page)
    await answered(page, player, HOSTILE, question=HOSTILE)
    # then it is shown, also after a reload
    for _ in range(2):
        await assert_harmless(page)
        assert foreign == []
        await page.reload()


async def test_links_open_elsewhere_and_tell_nothing(page: ChatPage, player: Player) -> None:
    await answered(page, player, " See [here](https://example.com/).")
    link = page.answer.get_by_role("link", name="here")
    assert await link.get_attribute("target") == "_blank"
    assert await link.get_attribute("rel") == "noopener noreferrer"


async def test_code_is_highlighted_and_copied(page: ChatPage, player: Player) -> None:
    await page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    code = 'def f(x):\n    """Text."""\n    return x < 1 and "a&b"'
    await answered(page, player, f" Look:\n\n```python\n{code}\n```\n\nThat is *all*.")
    await page.page.locator(".hljs-keyword").first.wait_for()
    assert await page.page.locator("figure.code code").inner_text() == code
    await page.button("Copy code").click()
    assert await page.page.evaluate("navigator.clipboard.readText()") == code
    # and the whole answer as it was written
    await page.messages.last.get_by_role("button", name="Copy", exact=True).click()
    assert (await page.page.evaluate("navigator.clipboard.readText()")).startswith("Look:\n\n```python\ndef")


async def test_what_is_focused_or_selected_stays_so_while_the_answer_grows(page: ChatPage, player: Player) -> None:
    # given an answer that is being written
    await page.ask("hi")
    answer = await player.take()
    await answer.say(" See [here](https://example.com/) and", " some")
    await page.shows(page.answer, "some")
    await page.answer.get_by_role("link").focus()
    await page.page.evaluate("getSelection().selectAllChildren(document.querySelector('.assistant .text p'))")
    selected = await page.page.evaluate("getSelection().toString()")
    assert selected == "See here and some"
    # when it grows, within the paragraph, after it, and to its end
    for more in (" *more*", " words.\n\nAnd", " so on.\n\n```\nx = 1\n```\n\nThat"):
        await answer.say(more)
        await page.shows(page.answer, more.split("\n")[-1].strip(" *"))
        await expect(page.answer.get_by_role("link")).to_be_focused()
        assert (await page.page.evaluate("getSelection().toString()")).startswith(selected)
    await answer.finish(" is all.###", reason=FinishReason.STOP)
    await page.is_idle()
    # then
    await expect(page.answer.get_by_role("link")).to_be_focused()
    assert (await page.page.evaluate("getSelection().toString()")).startswith(selected)
    assert await page.answer.locator("> *").evaluate_all("all => all.map(each => each.tagName)") == [
        "P",
        "P",
        "FIGURE",
        "P",
    ]


async def test_code_in_a_list_is_highlighted_once_it_is_complete(page: ChatPage, player: Player) -> None:
    await answered(page, player, " - a list\n\n  ```python\n  x = 1\n  ```\n\n- goes on\n\nThe end.")
    await expect(page.answer.locator("li .hljs-number")).to_have_text("1")


async def test_tables_numbers_and_tasks_are_as_they_were_written(page: ChatPage, player: Player) -> None:
    await answered(page, player, " |a|b|\n|-:|:-:|\n|1|2|\n\nFrom three:\n\n3. c\n4. d\n\n- [x] done\n- [ ] to do")
    cells = page.answer.locator("td")
    assert await cells.evaluate_all("cells => cells.map(cell => getComputedStyle(cell).textAlign)") == [
        "right",
        "center",
    ]
    assert await page.answer.locator("ol").get_attribute("start") == "3"
    boxes = page.answer.get_by_role("checkbox")
    assert await boxes.evaluate_all("boxes => boxes.map(box => [box.checked, box.disabled])") == [
        [True, True],
        [False, True],
    ]


async def test_formulas_stay_as_they_were_written(page: ChatPage, player: Player) -> None:
    await answered(
        page, player, r" Since \(a_1 * b_2 * c\) and $x_i * y_i$, it costs $5 or $6: \[ \sum_{i=1}^n i_*^2_* \]"
    )
    assert (await page.answer.inner_text()).strip() == (
        r"Since \(a_1 * b_2 * c\) and $x_i * y_i$, it costs $5 or $6: \[ \sum_{i=1}^n i_*^2_* \]"
    )
    await expect(page.answer.locator("em")).to_have_count(0)


async def test_each_paragraph_has_its_own_direction(page: ChatPage, player: Player) -> None:
    await answered(page, player, " مرحبا بكم\n\nHello there\n\n- שלום\n\n```\nx = 1\n```", question="مرحبا")
    directions = await page.page.evaluate(
        "Array.from(document.querySelectorAll('#messages .user .text, #messages p, #messages .text li, pre'),"
        " element => getComputedStyle(element).direction)"
    )
    assert directions == ["rtl", "rtl", "ltr", "rtl", "ltr"]


async def test_code_and_formulas_go_from_left_to_right(page: ChatPage, player: Player) -> None:
    await answered(page, player, " مرحبا `a - b` و $x - y$ بكم\n\n$$\nx - y\n$$", question="مرحبا")
    found = await page.page.evaluate(
        "Array.from(document.querySelectorAll('.text :is(code, pre)'), getComputedStyle)"
        ".map(style => [style.direction, style.unicodeBidi])"
    )
    assert found == [["ltr", "isolate"]] * 4
