"""LangChain's ChatOpenAI; see suite_openai."""

import os

import pytest
from langchain_openai import ChatOpenAI

WORDS = os.environ["WORDS"]


@pytest.fixture
def model() -> ChatOpenAI:
    url = os.environ["COROLLA_URL"] + "/v1"
    return ChatOpenAI(base_url=url, api_key="none", model="corolla/oracle", seed=7, max_tokens=8, stream_usage=True)


def test_a_dialogue(model: ChatOpenAI) -> None:
    answer = model.invoke([("system", "Be brief."), ("human", "hi")])
    assert (answer.content, answer.response_metadata["finish_reason"]) == (WORDS[:40], "length")


def test_a_stream(model: ChatOpenAI) -> None:
    chunks = list(model.stream("hi"))
    assert "".join(str(chunk.content) for chunk in chunks) == WORDS[:40]
    told = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert [(each["input_tokens"], each["output_tokens"]) for each in told] == [(22, 8)]


@pytest.mark.anyio
async def test_an_asynchronous_stream(model: ChatOpenAI) -> None:
    assert "".join([str(chunk.content) async for chunk in model.astream("hi")]) == WORDS[:40]
