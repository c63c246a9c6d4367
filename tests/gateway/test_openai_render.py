"""Events as the answers of the OpenAI API: text, logprobs, chunks, ids."""

import json
import re
from typing import Any

import msgspec

from gateway.openai_deltas import Delta, Deltas
from gateway.openai_render import DONE, Echo, Frame, Stream, Whole
from shared.messages import Ending, FinishReason, JobFinished, LogEntry, Logprobs, Token
from tests.gateway.player import token, weighed

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH
CHAT = Frame("chatcmpl-1", "demo", 5, choices=1, chat=True, logprobs=False)
TEXT = Frame("cmpl-1", "demo", 5, choices=1, chat=False, logprobs=False)


def entry(first: int, *tokens: Token | str, ending: Ending | None = None) -> LogEntry:
    return LogEntry(first, tuple(token(each) if isinstance(each, str) else each for each in tokens), ending)


def choice(number: int, text: str) -> Token:
    return Token(0, text, number)


def finished(*reasons: FinishReason) -> JobFinished:
    first, *others = reasons
    return JobFinished(first, 3, 4, tuple(others))


def whole(frame: Frame, *entries: LogEntry) -> Any:
    gathered = Whole(frame, 1)
    for each in entries:
        gathered.feed(0, each)
    return json.loads(msgspec.json.encode(gathered.content()))


def events(raw: bytes) -> list[Any]:
    """The objects of a stream, which must have all that a stream has."""
    blocks = raw.decode().split("\n\n")
    assert blocks.pop() == ""
    found = []
    for block in blocks:
        match = re.fullmatch(r"(?:id: \d+\n)?data: (.*)", block)
        assert match
        found.append("DONE" if match[1] == "[DONE]" else json.loads(match[1]))
    return found


def ids(raw: bytes) -> list[int]:
    return [int(number) for number in re.findall(rb"^id: (\d+)$", raw, re.MULTILINE)]


def test_deltas_hold_back_what_is_no_whole_character() -> None:
    deltas = Deltas(trim=False)
    assert deltas.feed(entry(1, "a", "")) == [Delta(0, 0, "a", (token("a"),))]
    assert deltas.feed(entry(2, "")) == []
    assert deltas.feed(entry(3, "é", "b")) == [Delta(0, 1, "éb", tuple(map(token, ("", "", "é", "b"))))]


def test_tokens_without_text_at_a_stop_were_the_stop() -> None:
    stopped, cut = Deltas(trim=False), Deltas(trim=False)
    assert stopped.feed(entry(1, "a", "", ending=finished(STOP)))[-1] == Delta(0, 1, "", (), "stop")
    assert cut.feed(entry(1, "a", "", ending=finished(LENGTH)))[-1] == Delta(0, 1, "", (token(""),), "length")


def test_spaces_between_a_role_and_its_words_are_dropped() -> None:
    deltas = Deltas(trim=True)
    assert deltas.feed(entry(1, " ")) == []
    assert deltas.feed(entry(2, "  a")) == [Delta(0, 0, "a", (token(" "), token("  a")))]
    assert deltas.feed(entry(3, " b")) == [Delta(0, 1, " b", (token(" b"),))]


def test_a_whole_completion() -> None:
    content = whole(TEXT, entry(1, " sat", " on"), entry(3, "", ending=finished(STOP)))
    assert content == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 5,
        "model": "demo",
        "choices": [{"index": 0, "text": " sat on", "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }


def test_a_whole_dialogue() -> None:
    content = whole(CHAT, entry(1, " Hi", " you"), entry(3, ending=finished(LENGTH)))
    assert (content["object"], content["usage"]["total_tokens"]) == ("chat.completion", 7)
    message = {"role": "assistant", "content": "Hi you"}
    assert content["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}]


def test_choices_and_prompts_are_numbered() -> None:
    gathered = Whole(Frame("cmpl-1", "demo", 5, 2, False, False, (Echo("A"), Echo("B"))), 2)
    gathered.feed(1, entry(1, choice(1, "d"), choice(0, "c"), ending=finished(STOP, LENGTH)))
    gathered.feed(0, entry(1, choice(0, "a"), choice(1, "b"), ending=finished(LENGTH, STOP)))
    content = gathered.content()
    rows = [(each.index, each.text, each.finish_reason) for each in content.choices if hasattr(each, "text")]
    assert rows == [(0, "Aa", "length"), (1, "Ab", "stop"), (2, "Bc", "stop"), (3, "Bd", "length")]
    assert isinstance(content.usage, msgspec.Struct)
    assert content.usage.total_tokens == 14


def test_a_cancelled_answer_still_has_all_its_choices() -> None:
    frame = Frame("cmpl-1", "demo", 5, 3, False, False)
    content = whole(frame, entry(1, choice(1, "b")), entry(2, ending=JobFinished(FinishReason.CANCELLED, 1, 1)))
    assert [(each["text"], each["finish_reason"]) for each in content["choices"]] == [
        ("", "stop"),
        ("b", "stop"),
        ("", "stop"),
    ]


def test_logprobs_of_a_completion() -> None:
    part = Token(9, "", 0, Logprobs(b"\xc3", -1.0, ((b"\xc3", -1.0),)))
    rest = Token(8, "é", 0, Logprobs(b"\xa9", -0.5, ()))
    frame = Frame("cmpl-1", "demo", 5, 1, False, True)
    content = whole(frame, entry(1, weighed("a", -0.25, ("b", -2.0)), part, rest, ending=finished(STOP)))
    assert content["choices"][0]["logprobs"] == {
        "tokens": ["a", "bytes:\\xc3", "bytes:\\xa9"],
        "token_logprobs": [-0.25, -1.0, -0.5],
        "top_logprobs": [{"a": -0.25, "b": -2.0}, {"bytes:\\xc3": -1.0}, {"bytes:\\xa9": -0.5}],
        "text_offset": [0, 1, 1],
    }


def test_logprobs_of_an_echo() -> None:
    echo = Echo("A cat", (token("A"), weighed(" cat", -3.0, (" dog", -1.0))))
    frame = Frame("cmpl-1", "demo", 5, 1, False, True, (echo,))
    told = entry(1, weighed(" sat", -0.5), ending=finished(STOP))
    (choice,) = whole(frame, told)["choices"]
    assert choice["text"] == "A cat sat"
    assert choice["logprobs"] == {
        "tokens": ["A", " cat", " sat"],
        "token_logprobs": [None, -3.0, -0.5],
        "top_logprobs": [None, {" cat": -3.0, " dog": -1.0}, {" sat": -0.5}],
        "text_offset": [0, 1, 5],
    }
    first, second, _ = events(Stream(frame, 1, usage=False).feed(0, told))
    assert [each["choices"][0]["text"] for each in (first, second)] == ["A cat", " sat"]
    assert [each["choices"][0]["logprobs"]["text_offset"] for each in (first, second)] == [[0, 1], [5]]


def test_logprobs_of_a_dialogue() -> None:
    frame = Frame("chatcmpl-1", "demo", 5, 1, True, True)
    content = whole(frame, entry(1, weighed(" a", -0.25, ("b", -2.0)), ending=finished(LENGTH)))
    assert content["choices"][0]["message"]["content"] == "a"
    assert content["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": " a",
                "logprob": -0.25,
                "bytes": [32, 97],
                "top_logprobs": [
                    {"token": " a", "logprob": -0.25, "bytes": [32, 97]},
                    {"token": "b", "logprob": -2.0, "bytes": [98]},
                ],
            }
        ],
        "refusal": None,
    }


def test_a_streamed_dialogue_has_role_deltas_finish_usage_and_done() -> None:
    stream = Stream(CHAT, 1, usage=True)
    raw = stream.feed(0, entry(1, " Hi")) + stream.feed(0, entry(2, " you", "!", ending=finished(STOP)))
    *chunks, usage, done = events(raw + stream.finish())
    assert done == "DONE"
    assert all(
        (chunk["id"], chunk["object"], chunk["created"], chunk["model"])
        == ("chatcmpl-1", "chat.completion.chunk", 5, "demo")
        for chunk in (*chunks, usage)
    )
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hi"},
        {"content": " you!"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert [chunk["usage"] for chunk in chunks] == [None] * 4
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 7)


def test_without_a_wish_for_usage_no_chunk_has_it() -> None:
    stream = Stream(TEXT, 1, usage=False)
    chunks = events(stream.feed(0, entry(1, "a", ending=finished(STOP))))
    assert stream.finish() == DONE
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "text": "a", "logprobs": None, "finish_reason": None}],
        [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}],
    ]
    assert all("usage" not in chunk for chunk in chunks)


def test_an_empty_answer_is_still_a_whole_stream() -> None:
    stream = Stream(CHAT, 1, usage=False)
    chunks = events(stream.feed(0, entry(1, "", ending=finished(STOP))))
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [{"role": "assistant", "content": ""}, {}]


def test_echo_comes_first_in_each_choice() -> None:
    stream = Stream(Frame("cmpl-1", "demo", 5, 2, False, False, (Echo("A cat"),)), 1, usage=False)
    chunks = events(stream.feed(0, entry(1, choice(1, " b"), choice(0, " a"))))
    assert [(chunk["choices"][0]["index"], chunk["choices"][0]["text"]) for chunk in chunks] == [
        (1, "A cat"),
        (1, " b"),
        (0, "A cat"),
        (0, " a"),
    ]


def stream_with_ids(after: int) -> bytes:
    stream = Stream(CHAT, 1, usage=True, after=after)
    raw = stream.feed(0, entry(1, " Hi", "", " ü")) + stream.feed(0, entry(4, "!", ending=finished(STOP)))
    return raw + stream.finish()


def test_a_stream_with_ids_goes_on_after_each_of_them() -> None:
    full = stream_with_ids(0)
    assert ids(full) == [1, 3, 4, 5, 6]
    for id in ids(full):
        told, marker, _ = full.partition(f"id: {id}\n".encode())
        rest = full[len(told + marker) :].partition(b"\n\n")[2]
        assert stream_with_ids(id) == rest
