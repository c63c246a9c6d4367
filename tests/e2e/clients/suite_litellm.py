"""LiteLLM's SDK; see suite_openai."""

import os
from typing import Any

import litellm
import pytest

WORDS = os.environ["WORDS"]
ASKED: dict[str, Any] = {
    "model": "openai/corolla/oracle",
    "messages": [{"role": "user", "content": "hi"}],
    "seed": 7,
    "max_tokens": 8,
    "api_base": os.environ["COROLLA_URL"] + "/v1",
    "api_key": "none",
}


def test_a_dialogue() -> None:
    answer = litellm.completion(**ASKED)
    assert answer.choices[0].message.content == WORDS[:40]
    assert answer.usage.completion_tokens == 8


def test_a_stream() -> None:
    chunks = list(litellm.completion(**ASKED, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == WORDS[:40]
    assert litellm.stream_chunk_builder(chunks).usage.prompt_tokens == 22


@pytest.mark.anyio
async def test_an_asynchronous_stream() -> None:
    chunks = await litellm.acompletion(**ASKED, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in chunks]) == WORDS[:40]


def test_an_error() -> None:
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**ASKED | {"temperature": 3})
