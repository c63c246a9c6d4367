"""The OpenAI API with the demo model: what it writes, reads and embeds is what transformers has."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Stack
from tests.e2e.test_petals_api import greedy, local_model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

QUESTION = {"role": "user", "content": "How do I add a worker?"}


@pytest.fixture
def client(demo: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo.gateways[0].url, timeout=60) as client:
        yield client


def post(client: httpx.Client, url: str, **fields: Any) -> Any:
    answer = client.post(url, json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_dialogue(client: httpx.Client) -> None:
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hi! How can I help you?"},
        QUESTION,
    ]
    content = post(client, "/v1/chat/completions", messages=messages, temperature=0)
    prompt = "Human: hi###Assistant: Hi! How can I help you?###Human: How do I add a worker?###Assistant:"
    expected, stop, _ = greedy(prompt, 100).partition("###")
    assert stop
    assert content["choices"][0]["message"] == {"role": "assistant", "content": expected.lstrip(" ")}
    assert content["choices"][0]["finish_reason"] == "stop"


def test_a_completion(client: httpx.Client) -> None:
    content = post(client, "/v1/completions", prompt=["Once upon a time,", "A cat"], temperature=0, max_tokens=12)
    assert [each["text"] for each in content["choices"]] == [greedy("Once upon a time,", 12), greedy("A cat", 12)]


def test_how_probable_a_text_is(client: httpx.Client) -> None:
    import torch

    model, tokenizer = local_model()
    ids = tokenizer("How do I add a worker? " * 90, return_tensors="pt")["input_ids"]
    assert ids.shape[1] > 600  # in two pieces
    with torch.inference_mode():
        expected = model(ids).logits[0, :-1].log_softmax(-1)
    chosen = expected.gather(1, ids[0, 1:, None])[:, 0].tolist()
    (choice,) = post(
        client, "/v1/completions", prompt=[ids[0].tolist()], max_tokens=1, logprobs=1, echo=True, temperature=0
    )["choices"]
    first, *others, _ = choice["logprobs"]["token_logprobs"]
    assert first is None
    assert others == pytest.approx(chosen, abs=1e-3)
    best = [max(top.values()) for top in choice["logprobs"]["top_logprobs"][1:-1]]
    assert best == pytest.approx(expected.max(1).values.tolist(), abs=1e-3)
    assert choice["text"].startswith(tokenizer.decode(ids[0], skip_special_tokens=True))


def test_tokens(client: httpx.Client) -> None:
    _, tokenizer = local_model()
    found = post(client, "/v1/tokenize", prompt="Grüße, Corolla!")
    assert found["tokens"] == tokenizer("Grüße, Corolla!")["input_ids"]
    assert post(client, "/v1/detokenize", tokens=found["tokens"][1:])["prompt"] == "Grüße, Corolla!"


@pytest.mark.parametrize("length", [1, 700])
def test_embeddings(client: httpx.Client, length: int) -> None:
    import torch

    model, tokenizer = local_model()
    text = "How do I add a worker? " * length
    ids = tokenizer(text, return_tensors="pt")["input_ids"][:, :1000]
    with torch.inference_mode():
        states = model.model(ids).last_hidden_state[0].mean(0)
    expected = torch.nn.functional.normalize(states, dim=0).tolist()
    content = post(client, "/v1/embeddings", input=ids[0].tolist())
    assert content["data"][0]["embedding"] == pytest.approx(expected, abs=1e-4)
    assert content["usage"]["prompt_tokens"] == ids.shape[1]
