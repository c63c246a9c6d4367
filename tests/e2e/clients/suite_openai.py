"""What users of the official client do, with its synchronous and its asynchronous form.

Run by tests/e2e/test_clients.py, in an environment of its own for each version. COROLLA_URL: of a gateway; HASTY_URL:
of one whose deadline is short; FULL_URL: of one that lets nobody wait; IDLE_URL: of one without a worker. WORDS: what
the model answers with seed 7.
"""

import os
from collections.abc import AsyncIterator
from typing import Any

import anyio
import openai
import pytest

MODEL = "corolla/oracle"
WORDS = os.environ["WORDS"]
HI = [{"role": "user", "content": "hi"}]
PROMPT_TOKENS = 22


def first(count: int) -> str:
    return WORDS[: 5 * count]


def url(name: str = "COROLLA_URL") -> str:
    return os.environ[name] + "/v1"


@pytest.fixture
def client() -> openai.OpenAI:
    return openai.OpenAI(base_url=url(), api_key="none", max_retries=0)


@pytest.fixture
async def later() -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=url(), api_key="none", max_retries=0) as client:
        yield client


def test_models(client: openai.OpenAI) -> None:
    model, *_ = client.models.list().data
    assert (model.id, model.object) == (MODEL, "model")
    assert client.models.retrieve(MODEL) == model


def test_a_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="hi", seed=7, max_tokens=4, echo=True)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == ("hi" + first(4), "length")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (2, 4, 6)


def test_completions_of_several_prompts(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=["a", "b"], n=2, best_of=3, seed=7, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


def test_logprobs_of_a_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="hi", seed=7, max_tokens=2, logprobs=1)
    told = answer.choices[0].logprobs
    assert told is not None
    assert (told.tokens, told.token_logprobs, told.text_offset) == ([WORDS[:5], WORDS[5:10]], [0, 0], [0, 5])


def test_logprobs_of_a_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="a@", max_tokens=0, logprobs=1, echo=True)
    told = answer.choices[0].logprobs
    assert told is not None
    assert (told.tokens, told.token_logprobs, told.top_logprobs) == (["a", "@"], [None, -0.25], [None, {"@": -0.25}])


def test_a_dialogue(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HI, seed=7, max_tokens=3, n=2)
    assert answer.choices[0].message.content == first(3)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[1].message.content != first(3)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == PROMPT_TOKENS
    assert len(answer._request_id or "") == 32


def test_logprobs_of_a_dialogue(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=HI, seed=7, max_completion_tokens=1, logprobs=True, top_logprobs=1
    )
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert (told.content[0].token, told.content[0].logprob) == (WORDS[:5], 0)
    assert told.content[0].top_logprobs[0].bytes == list(WORDS[:5].encode())


def test_a_stop_string(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HI, seed=7, stop=[WORDS[12:17]])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (WORDS[:12], "stop")


def gathered(chunks: Any) -> tuple[str, str | None, Any]:
    text, reason, usage = "", None, None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason, usage


def test_a_stream(client: openai.OpenAI) -> None:
    options = {"include_usage": True}
    chunks = client.chat.completions.create(
        model=MODEL, messages=HI, seed=7, max_tokens=20, stream=True, stream_options=options
    )
    text, reason, usage = gathered(chunks)
    assert (text, reason) == (first(20), "length")
    assert (usage.prompt_tokens, usage.completion_tokens) == (PROMPT_TOKENS, 20)


def test_a_stream_by_its_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=HI, seed=7, stop=WORDS[25:30]) as stream:
        texts = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(texts) == final.choices[0].message.content == first(5)


def test_a_streamed_completion(client: openai.OpenAI) -> None:
    chunks = client.completions.create(model=MODEL, prompt="hi", seed=7, max_tokens=5, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == first(5)


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=["hi", "you"])
    plain = client.embeddings.create(model=MODEL, input="hi", encoding_format="float")
    assert [each.index for each in answer.data] == [0, 1]
    assert answer.data[0].embedding == pytest.approx(plain.data[0].embedding)
    assert answer.usage.prompt_tokens == 5


def test_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=MODEL, messages=HI, temperature=3)
    assert (bad.value.param, bad.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=HI)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="maximum context length is 8192 tokens") as long:
        client.completions.create(model=MODEL, prompt="hi", max_tokens=9000, stream=True)
    assert long.value.code == "context_length_exceeded"


def test_a_full_queue() -> None:
    client = openai.OpenAI(base_url=url("FULL_URL"), api_key="none", max_retries=0)
    with pytest.raises(openai.RateLimitError) as full:
        client.chat.completions.create(model=MODEL, messages=HI)
    assert full.value.response.headers["retry-after"] == "1"


def test_no_worker() -> None:
    client = openai.OpenAI(base_url=url("IDLE_URL"), api_key="none", max_retries=0)
    with pytest.raises(openai.InternalServerError) as gone:
        client.chat.completions.create(model="corolla/idle", messages=HI)
    assert gone.value.status_code == 503


def test_a_failure_in_mid_stream_is_raised() -> None:
    client = openai.OpenAI(base_url=url("HASTY_URL"), api_key="none", max_retries=0)
    chunks = client.completions.create(model=MODEL, prompt="hi", seed=7, max_tokens=2000, stream=True)
    texts: list[str] = []
    with pytest.raises(openai.APIError, match="not finished in time"):
        texts.extend(chunk.choices[0].text for chunk in chunks)
    assert texts
    assert WORDS.startswith("".join(texts))


def test_who_leaves_a_stream_ends_its_job(client: openai.OpenAI) -> None:
    with client.completions.create(model=MODEL, prompt="hi", max_tokens=2000, stream=True) as chunks:
        id = next(iter(chunks)).id
    while client.get(f"/jobs/{id}", cast_to=dict[str, Any])["status"] == "in_progress":
        pass
    assert client.get(f"/jobs/{id}", cast_to=dict[str, Any])["status"] == "cancelled"


async def read(later: openai.AsyncOpenAI, count: int) -> tuple[str, Any]:
    chunks = await later.chat.completions.create(
        model=MODEL, messages=HI, seed=7, max_tokens=count, stream=True, stream_options={"include_usage": True}
    )
    text, usage = "", None
    async for chunk in chunks:
        usage = chunk.usage or usage
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    return text, usage


@pytest.mark.anyio
async def test_streams_side_by_side(later: openai.AsyncOpenAI) -> None:
    found: dict[int, tuple[str, Any]] = {}

    async def follow(count: int) -> None:
        found[count] = await read(later, count)

    async with anyio.create_task_group() as tasks:
        for count in range(1, 9):
            tasks.start_soon(follow, count)
    assert {count: text for count, (text, _) in found.items()} == {count: first(count) for count in range(1, 9)}
    assert [found[count][1].completion_tokens for count in range(1, 9)] == list(range(1, 9))


@pytest.mark.anyio
async def test_all_calls_of_the_asynchronous_client(later: openai.AsyncOpenAI) -> None:
    assert MODEL in [model.id async for model in later.models.list()]
    answer = await later.chat.completions.create(model=MODEL, messages=HI, seed=7, max_tokens=3)
    assert answer.choices[0].message.content == first(3)
    text = await later.completions.create(model=MODEL, prompt="hi", seed=7, max_tokens=3)
    assert text.choices[0].text == first(3)
    assert len((await later.embeddings.create(model=MODEL, input="hi")).data[0].embedding) == 32
    with pytest.raises(openai.BadRequestError):
        await later.completions.create(model=MODEL, prompt="hi", top_p=2)


@pytest.mark.anyio
async def test_who_is_cancelled_ends_the_job(later: openai.AsyncOpenAI) -> None:
    chunks = await later.completions.create(model=MODEL, prompt="hi", max_tokens=2000, stream=True)
    id = (await anext(aiter(chunks))).id
    await chunks.close()
    with anyio.fail_after(10):
        while (await later.get(f"/jobs/{id}", cast_to=dict[str, Any]))["status"] == "in_progress":
            await anyio.sleep(0.01)
    assert (await later.get(f"/jobs/{id}", cast_to=dict[str, Any]))["status"] == "cancelled"
