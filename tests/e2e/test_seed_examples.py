"""The examples that users of older servers of this kind know, to the letter but for the port."""

import json
import re
import subprocess
from typing import Any

import pytest

from tests.e2e.conftest import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("curl")]

COMPLETION = """curl http://localhost:8000/v1/completions \\
  -H "Content-Type: application/json" \\
  -d '{
    "model": "chinese-llama-alpaca-2",
    "prompt": "Tell me where the capital of China is"
  }'"""
ADVANCED = """curl http://localhost:8000/v1/completions \\
  -H "Content-Type: application/json" \\
  -d '{
    "prompt": "Tell me what are the advantages and disadvantages of China and the United States respectively",
    "max_tokens": 90,
    "temperature": 0.7,
    "num_beams": 4,
    "top_k": 40
  }'"""
CHAT = """curl http://localhost:8000/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -d '{
    "model": "chinese-llama-alpaca-2",
    "messages": [
      {"role": "user","message": "Tell me some stories about Hangzhou"}
    ]
  }'"""
TURNS = """curl http://localhost:8000/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -d '{
    "model": "chinese-llama-alpaca-2",
    "messages": [
      {"role": "user","message": "Tell me some stories about Hangzhou"},
      {"role": "assistant","message": "Alright, do you have any particular preferences about Hangzhou?"},
      {"role": "user","message": "I'm more interested in West Lake, can you tell me about it?"}
    ],
    "repetition_penalty": 1.0
  }'"""
WRAPPED = "[INST] <<SYS>>\nYou are a helpful assistant. 你是一个乐于助人的助手。\n<</SYS>>\n\n{} [/INST]"


def run(stack: Stack, command: str) -> Any:
    # The shell ends a word at the apostrophe of "I'm"; who typed it had to write it so.
    typed = command.replace("I'm", "I'\\''m").replace("localhost:8000", f"localhost:{stack.gateways[0].port}")
    ran = subprocess.run(["sh", "-c", typed], check=True, capture_output=True, text=True, timeout=60)
    return json.loads(ran.stdout)


def test_a_completion(oracle: Stack) -> None:
    content = run(oracle, COMPLETION)
    assert re.fullmatch("cmpl-[0-9a-f]{32}", content["id"])
    assert (content["object"], content["model"]) == ("text_completion", "chinese-llama-alpaca-2")
    assert isinstance(content["created"], int)
    ((index, text),) = [(choice["index"], choice["text"]) for choice in content["choices"]]
    assert (index, len(text)) == (0, 16 * 5)
    # the prompt stands in the instruction template
    wrapped = WRAPPED.format("Tell me where the capital of China is")
    assert content["usage"]["prompt_tokens"] == len(wrapped.encode())


def test_a_completion_with_beams(oracle: Stack) -> None:
    content = run(oracle, ADVANCED)
    assert [(choice["index"], len(choice["text"])) for choice in content["choices"]] == [(0, 90 * 5)]


@pytest.mark.parametrize("key", ["message", "content"])
@pytest.mark.parametrize("example", [CHAT, TURNS])
def test_a_dialogue(oracle: Stack, example: str, key: str) -> None:
    content = run(oracle, example.replace('"message":', f'"{key}":'))
    assert re.fullmatch("chatcmpl-[0-9a-f]{32}", content["id"])
    assert (content["object"], content["model"]) == ("chat.completion", "chinese-llama-alpaca-2")
    (choice,) = content["choices"]
    assert (choice["index"], choice["message"]["role"]) == (0, "assistant")
    assert len(choice["message"]["content"]) == 512 * 5
    if example == CHAT:
        wrapped = WRAPPED.format("Tell me some stories about Hangzhou")
        assert content["usage"]["prompt_tokens"] == len(wrapped.encode())
