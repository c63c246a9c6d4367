"""A person at the chat page, with the demo model on a real swarm, while parts of the system are killed.

The model's most likely words do not change, so an answer that was disturbed must be the undisturbed one to the letter.
"""

import contextlib
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, expect

from tests.browser import ChatPage, chat_page, chromium
from tests.e2e.conftest import Stack
from tests.page.hostile import HOSTILE, assert_harmless, foreign_requests
from tests.page.looks import check
from tests.services import Worker

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

QUESTION = "How do I add a worker?"
# A lease, and the time in which another worker reads prompt and answer again.
TAKEOVER_S = 20


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    """A browser."""
    async with chromium() as browser:
        yield browser


@pytest.fixture
async def page(browser: Browser, demo: Stack) -> AsyncIterator[ChatPage]:
    """The chat page of the first gateway. It leaves sessions to come back to, which are closed in the end."""
    async with chat_page(browser) as page:
        await page.open(demo.gateways[0].url)
        yield page
    demo.restore()
    async with httpx.AsyncClient(base_url=demo.gateways[0].url) as client:
        for key in demo.valkey.client.scan_iter("{p}:session:*"):
            session = str(key, "utf-8").split(":")[2]
            await client.get("/api/v1/close_inference_session", params={"session_id": session})


async def choose_the_likeliest(page: ChatPage) -> None:
    """Have this chat answered without chance."""
    await page.button("Settings of this chat").click()
    await page.page.get_by_label("Always the most likely word").check()
    await page.button("Keep").click()


async def undisturbed(page: ChatPage) -> str:
    """The whole answer to the question, in a chat of its own; the page is then at a new chat."""
    await choose_the_likeliest(page)
    await page.ask(QUESTION)
    await page.is_idle(30)
    text = await page.text()
    await page.button("New chat").click()
    await choose_the_likeliest(page)
    return text


@contextlib.asynccontextmanager
async def mid_answer(page: ChatPage, stack: Stack) -> AsyncIterator[Worker]:
    """Ask the question. In the context some of the answer is there, and the worker that writes it stands still."""
    await page.ask(QUESTION)
    while not (worker := await _stopped(page, stack)):
        await page.is_idle()
        await page.button("Regenerate").click()
    try:
        await expect(page.answer).not_to_be_empty()
        await expect(page.button("Stop")).to_be_visible()
        yield worker
    finally:
        _signal(worker, signal.SIGCONT)


async def _stopped(page: ChatPage, stack: Stack) -> Worker | None:
    """The worker, stopped with some of the answer written; None where the answer was complete before."""
    while not (job := _begun(stack)):
        if await page.button("Send").is_visible():
            return None
    worker = stack.owner_of(job)
    _signal(worker, signal.SIGSTOP)
    if stack.valkey.client.hget(f"{{p}}:job:{job}", "state") == b"running":
        return worker
    _signal(worker, signal.SIGCONT)
    return None


def _signal(worker: Worker, number: signal.Signals) -> None:
    assert worker.process is not None
    worker.process.send_signal(number)


def _begun(stack: Stack) -> str:
    """The job that has some tokens and is not done; empty where there is none."""
    client = stack.valkey.client
    for key in client.scan_iter("{p}:job:*"):
        state, last = client.hmget(key, "state", "last")
        if state != b"done" and int(last or 0) >= 3:
            return str(key, "utf-8").rpartition(":")[2]
    return ""


async def ended(page: ChatPage) -> str:
    """The answer as it is kept in the end."""
    await page.is_idle(2 * TAKEOVER_S)
    await expect(page.page.get_by_role("alert")).to_have_count(0)
    return await page.text()


async def test_ask_and_read_two_turns(page: ChatPage) -> None:
    await page.ask("How do I start Corolla?")
    await expect(page.answer).not_to_be_empty(timeout=30_000)
    await page.shows(page.notice, "tokens per second")
    await page.is_idle(30)
    await page.shows(page.answer, "make up")
    await page.ask("Which Python do I need?")
    await page.is_idle(30)
    await page.shows(page.answer, "3.11")
    await expect(page.messages).to_have_count(4)


async def test_regenerate_and_edit(page: ChatPage) -> None:
    text = await undisturbed(page)
    assert text.startswith(" ")
    await page.ask("Hello!")
    await page.is_idle(30)
    await page.button("Regenerate").click()
    await page.is_idle(30)
    await expect(page.messages).to_have_count(2)
    await page.messages.first.hover()
    await page.button("Edit").click()
    await page.messages.first.get_by_role("textbox").fill(QUESTION)
    await page.messages.first.get_by_role("textbox").press("Enter")
    await page.is_idle(30)
    await expect(page.messages).to_have_count(2)
    assert await page.text() == text


async def test_stop_and_continue(page: ChatPage, demo: Stack) -> None:
    text = await undisturbed(page)
    async with mid_answer(page, demo):
        await page.page.keyboard.press("Escape")
    await page.is_idle()
    stopped = await page.text()
    assert text.startswith(stopped)
    assert len(stopped) < len(text)
    await page.button("Continue").click()
    assert await ended(page) == text


async def test_a_reload_in_mid_answer(page: ChatPage, demo: Stack) -> None:
    text = await undisturbed(page)
    async with mid_answer(page, demo):
        await page.reload()
        await expect(page.answer).not_to_be_empty()
    assert await ended(page) == text
    await expect(page.messages).to_have_count(2)


async def test_the_gateway_is_killed_in_mid_answer(page: ChatPage, demo: Stack) -> None:
    page.complaints.gateway_may_be_away = True
    text = await undisturbed(page)
    async with mid_answer(page, demo):
        demo.gateways[0].kill()
        await page.shows(page.notice, "The connection is lost.")
    demo.gateways[0].start()
    assert await ended(page) == text


async def test_the_worker_is_killed_in_mid_answer(page: ChatPage, demo: Stack) -> None:
    text = await undisturbed(page)
    async with mid_answer(page, demo) as worker:
        worker.kill()
    assert await ended(page) == text


async def test_offline_and_online_again(page: ChatPage, demo: Stack) -> None:
    page.complaints.gateway_may_be_away = True
    text = await undisturbed(page)
    async with mid_answer(page, demo):
        await page.page.context.set_offline(True)
        await page.shows(page.notice, "You are offline. The answer goes on when you are back.")
    await page.page.context.set_offline(False)
    assert await ended(page) == text


async def test_hostile_markdown_does_no_harm(page: ChatPage, tmp_path: Path) -> None:
    """The demo model writes none, but a file that somebody made may hold it. Of a question nothing is rendered."""
    foreign = foreign_requests(page)
    # given
    messages = [{"role": role, "text": HOSTILE} for role in ("user", "assistant")]
    hostile = {"title": "Hostile", "model": "", "system": "", "note": "", "params": {}, "messages": messages}
    file = tmp_path / "chats.json"
    file.write_text(json.dumps({"format": "corolla-chats", "version": 1, "chats": [hostile]}))
    await page.page.locator("#file").set_input_files(file)
    # when
    await page.chats.get_by_role("link", name="Hostile").click()
    # then
    await assert_harmless(page)
    # when
    question = f'<img src="https://evil.example/" onerror="window.harmed = 11"> {QUESTION}'
    await page.button("New chat").click()
    await page.ask(question)
    await page.is_idle(30)
    # then
    await expect(page.messages.first.locator(".text")).to_have_text(question)
    assert await page.page.evaluate("window.harmed") is None
    assert foreign == []


@pytest.mark.parametrize("width", [320, 1440])
async def test_it_looks_well_on_a_phone_and_a_desk(page: ChatPage, width: int) -> None:
    await page.page.emulate_media(reduced_motion="reduce")
    await page.page.set_viewport_size({"width": width, "height": 800})
    await page.ask(QUESTION)
    await page.is_idle(30)
    await check(page, "live", width)


async def test_another_model_is_chosen_while_one_writes(page: ChatPage, demo: Stack) -> None:
    text = await undisturbed(page)
    async with mid_answer(page, demo):
        await page.page.get_by_label("Model", exact=True).select_option("corolla/twin")
    assert await ended(page) == text
    await page.ask("Thank you!")
    assert await ended(page) != ""
    await expect(page.messages.nth(1).locator("h2")).to_have_text("Demo")
    await expect(page.messages.last.locator("h2")).to_have_text("Twin")
    await page.shows(page.page.locator("#model-links"), "Licence: MIT")


async def test_the_status_tells_of_every_part(browser: Browser, demo: Stack) -> None:
    async with chat_page(browser) as page:
        page.complaints.gateway_may_be_away = True
        await page.open(f"{demo.gateways[0].url}/status")
        state = page.page.locator("#state")
        await page.shows(state, "Everything is there.", timeout_s=30)
        bars = page.page.get_by_role("img", name="each on 1 server")
        await expect(bars).to_have_count(2, timeout=30_000)
        rows = page.page.locator("#workers tbody tr")
        await expect(rows).to_have_count(2)
        # when a worker leaves, without a reload
        demo.workers[0].terminate()
        await expect(rows).to_have_count(1)
        demo.workers[0].start()
        await expect(rows).to_have_count(2)
