"""The Petals Chat API against the whole system: every way to call it, and texts that equal the model's own."""

import asyncio
import json
import secrets
import subprocess
from functools import cache
from typing import Any

import httpx
import psutil
import pytest

from tests.dialogue import dialogue
from tests.e2e.conftest import MODEL, Stack
from tests.services import Worker

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.timeout(300)]

GREETING = "###Assistant: Hi! How can I help you?###Human: {}###Assistant:"
QUESTIONS = (
    "How do I add a worker?",
    "How do I start it?",
    "What is Petals?",
    "hi",
    "Tell me about streaming",
    "Who are you?",
    "What does a gateway do?",
    "How can I run the tests?",
    "thanks",
    "Which license is it?",
)
PROMPTS = (
    *(GREETING.format(question) for question in QUESTIONS),
    "A cat sat on",
    'A cat in French is "',
    "Once upon a time,",
    "Привет, мир",
    "1 2 3 4",
    "make up",
    "🙂🙂",
    " ",
    "The",
    "Corolla\n\n",
)


@cache
def local_model() -> Any:
    """The demo model and its tokenizer as transformers runs them, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODEL, torch_dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(MODEL)


def greedy(prompt: str, max_new_tokens: int) -> str:
    """What transformers' own generate writes after the prompt."""
    model, tokenizer = local_model()
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    output = model.generate(ids, do_sample=False, max_new_tokens=max_new_tokens)[0]
    whole = tokenizer.decode(output, clean_up_tokenization_spaces=False)
    return str(whole.removeprefix(tokenizer.decode(ids[0], clean_up_tokenization_spaces=False)))


async def test_greedy_text_equals_that_of_the_local_model(demo: Stack) -> None:
    async with httpx.AsyncClient(base_url=demo.gateways[0].url, timeout=120) as client:

        async def ask(prompt: str) -> Any:
            answer = await client.post("/api/v1/generate", data={"inputs": prompt, "max_new_tokens": "30"})
            return answer.json()

        answers = await asyncio.gather(*map(ask, PROMPTS))
    expected = [greedy(prompt, 30).rstrip("\ufffd") for prompt in PROMPTS]
    assert answers == [{"ok": True, "outputs": text} for text in expected]


async def test_sampled_text_with_a_seed_is_the_same_twice(demo: Stack) -> None:
    parameters = {"inputs": "The", "max_new_tokens": 20, "do_sample": 1, "temperature": 1.5, "top_p": 0.95, "top_k": 50}
    async with httpx.AsyncClient(base_url=demo.gateways[0].url, timeout=60) as client:

        async def sample(seed: int) -> str:
            answer = await client.post("/api/v1/generate", json={**parameters, "seed": seed})
            assert answer.json()["ok"], answer.json()
            return str(answer.json()["outputs"])

        one, again, other = await sample(5), await sample(5), await sample(6)
    assert one == again
    assert one != other


def test_curl_with_a_form_with_json_and_with_a_query(demo: Stack, curl: str) -> None:
    url = f"{demo.gateways[0].url}/api/v1/generate"
    expected = {"ok": True, "outputs": greedy("Once upon a time,", 20)}
    inputs = "inputs=Once upon a time,"

    def answer(*arguments: str) -> Any:
        command = [curl, "--silent", "--show-error", "--fail-with-body", *arguments]
        return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)

    assert answer("-X", "POST", url, "-d", "model=demo", "-d", inputs, "-d", "max_new_tokens=20") == expected
    assert answer(url, "-F", inputs, "-F", "max_new_tokens=20") == expected
    body = json.dumps({"model": "corolla/demo", "inputs": "Once upon a time,", "max_new_tokens": 20})
    assert answer(url, "-H", "Content-Type: application/json", "-d", body) == expected
    assert answer("-X", "POST", f"{url}?inputs=Once%20upon%20a%20time,&max_new_tokens=20") == expected


async def test_open_and_generate_pipelined(demo: Stack) -> None:
    # the example of the chat.petals.dev README: both frames at once, sampling up to 30 tokens in all
    async with dialogue(demo.gateways[0].ws_url) as socket:
        await socket.send({"type": "open_inference_session", "model": "corolla/demo", "max_length": 30})
        generate = {"inputs": "A cat sat on", "max_length": 30, "do_sample": 1, "temperature": 0.6, "top_p": 0.9}
        await socket.send({"type": "generate", **generate})
        replies = await socket.receive(), await socket.receive()
    assert replies[0]["ok"] is True
    assert "outputs" not in replies[0]
    assert (replies[1]["ok"], replies[1]["stop"]) == (True, True)
    _, tokenizer = local_model()
    assert replies[1]["token_count"] <= 30 - len(tokenizer("A cat sat on")["input_ids"])


async def test_streaming_token_by_token_until_the_stop_sequence(demo: Stack) -> None:
    prompt = GREETING.format("How do I add a worker?")
    async with dialogue(demo.gateways[0].ws_url) as socket:
        await socket.open(max_length=512)
        replies = [r async for r in socket.generate(inputs=prompt, max_new_tokens=1, stop_sequence="###")]
    whole = greedy(prompt, 200)
    assert "".join(reply["outputs"] for reply in replies) == whole[: whole.index("###") + 3]
    assert [reply["stop"] for reply in replies] == [False] * (len(replies) - 1) + [True]
    assert {reply["token_count"] for reply in replies} == {1}
    assert all(reply["outputs"] for reply in replies)


async def test_two_turns_in_one_session(demo: Stack) -> None:
    first = GREETING.format("hi")
    second = "Human: How do I add a worker?###Assistant:"
    async with dialogue(demo.gateways[0].ws_url) as socket:
        await socket.open(max_length=512)
        one = await socket.text(inputs=first, max_new_tokens=1, stop_sequence="###")
        two = await socket.text(inputs=second, max_new_tokens=1, stop_sequence="###")
    whole = greedy(first + one + second, 200)
    assert two == whole[: whole.index("###") + 3]


async def test_http_sessions_through_two_gateways(demo: Stack) -> None:
    one, two = (gateway.url for gateway in demo.gateways)
    async with httpx.AsyncClient(timeout=60) as client:
        session = (await client.get(f"{one}/api/v1/open_inference_session?max_length=256")).json()["session_id"]
        texts = []
        for url, inputs in ((one, "Once upon a time,"), (two, None), (one, " and then"), (two, None)):
            fields = {"session_id": session, "max_new_tokens": 5} | ({"inputs": inputs} if inputs else {})
            answer = (await client.post(f"{url}/api/v1/generate", json=fields)).json()
            assert answer["ok"], answer
            texts.append(answer["outputs"])
        closed = (await client.get(f"{two}/api/v1/close_inference_session?session_id={session}")).json()
    assert closed == {"ok": True, "session_id": session}
    opening = greedy("Once upon a time,", 10)
    assert texts[0] + texts[1] == opening
    assert texts[2] + texts[3] == greedy("Once upon a time," + opening + " and then", 10)


@pytest.mark.parametrize("what", ["worker", "p2pd"])
async def test_a_worker_of_a_real_swarm_is_lost_in_mid_answer(demo: Stack, what: str) -> None:
    job = secrets.token_hex(16)
    prompt = GREETING.format("How do I add a worker?")
    got = []
    async with dialogue(demo.gateways[0].ws_url) as socket:
        await socket.open(max_length=512)
        frame = {"inputs": prompt, "max_new_tokens": 1, "stop_sequence": "###", "job_id": job}
        async for reply in socket.generate(**frame):
            got.append(reply["outputs"])
            if len(got) == 5:
                owner = demo.owner_of(job)
                owner.kill() if what == "worker" else await lose_a_child(owner, what)
    whole = greedy(prompt, 200)
    assert "".join(got) == whole[: whole.index("###") + 3]


async def lose_a_child(worker: Worker, name: str) -> None:
    """The worker cannot go on without it, sees that, and ends."""
    assert worker.process
    child, *_ = (each for each in psutil.Process(worker.process.pid).children(recursive=True) if each.name() == name)
    child.kill()
    assert await asyncio.to_thread(worker.process.wait, 10) == 1
    assert [line["child"] for line in worker.lines() if line["event"] == "child_ended"] == [name]


def test_memory(demo: Stack) -> None:
    assert max(gateway.rss_mb for gateway in demo.gateways) < 120
    assert max(worker.rss_mb for worker in demo.workers) < 700
