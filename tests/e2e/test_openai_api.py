"""The OpenAI API against whole processes: every field does what it says, or is refused by its name."""

import base64
import json
import math
import re
import struct
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Stack
from tests.waiting import until
from worker.oracle_backend import text, token

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MODEL, ALPACA = "corolla/oracle", "corolla/alpaca-2"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
PROMPT = "Human: hi###Assistant:"  # HI, by the plain template; a byte is a token


@pytest.fixture
def client(oracle: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=oracle.gateways[0].url, timeout=60) as client:
        yield client


@pytest.fixture
def other(oracle: Stack) -> Iterator[httpx.Client]:
    """Of the other gateway."""
    with httpx.Client(base_url=oracle.gateways[1].url, timeout=60) as client:
        yield client


def post(client: httpx.Client, url: str, **fields: Any) -> Any:
    answer = client.post(url, json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def complete(client: httpx.Client, **fields: Any) -> Any:
    return post(client, COMPLETIONS, **{"prompt": "hi", "seed": 7, "max_tokens": 4} | fields)


def chat(client: httpx.Client, **fields: Any) -> Any:
    return post(client, CHAT, **{"messages": HI, "seed": 7, "max_tokens": 4} | fields)


def events(raw: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in raw.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def words(count: int, seed: int = 7) -> str:
    return text(seed, 0, count)


def test_a_completion(client: httpx.Client) -> None:
    before = int(time.time())
    answer = client.post(COMPLETIONS, json={"prompt": "hi", "seed": 7}, headers={"x-request-id": "mine"})
    content = answer.json()
    assert answer.headers["x-request-id"] == "mine"
    assert re.fullmatch("cmpl-[0-9a-f]{32}", content["id"])
    assert before <= content["created"] <= time.time()
    assert (content["object"], content["model"]) == ("text_completion", MODEL)
    # 16 tokens are OpenAI's default
    assert content["choices"] == [{"index": 0, "text": words(16), "logprobs": None, "finish_reason": "length"}]
    assert content["usage"] == {"prompt_tokens": 2, "completion_tokens": 16, "total_tokens": 18}


def test_a_dialogue(client: httpx.Client) -> None:
    content = chat(client, max_tokens=3)
    assert re.fullmatch("chatcmpl-[0-9a-f]{32}", content["id"])
    assert content["object"] == "chat.completion"
    assert content["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": words(3)},
            "logprobs": None,
            "finish_reason": "length",
        }
    ]
    count = len(PROMPT)
    assert content["usage"] == {"prompt_tokens": count, "completion_tokens": 3, "total_tokens": count + 3}


def test_max_completion_tokens_counts_before_max_tokens(client: httpx.Client) -> None:
    assert chat(client, max_completion_tokens=2)["usage"]["completion_tokens"] == 2


def test_a_dialogue_without_a_limit_gets_512_tokens(client: httpx.Client) -> None:
    assert chat(client, model=ALPACA, max_tokens=None)["usage"]["completion_tokens"] == 512


PARTS = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]


@pytest.mark.parametrize(
    ("messages", "written"),
    [
        ("hi", PROMPT),
        ([{"role": "user", "message": "hi"}], PROMPT),
        ([{"role": "user", "content": PARTS}], "Human: h\ni###Assistant:"),
        ([{"role": "developer", "content": "Be brief."}, *HI], "Be brief.###" + PROMPT),
    ],
)
def test_messages_in_all_their_forms(client: httpx.Client, messages: Any, written: str) -> None:
    found = post(client, "/v1/tokenize", messages=messages)
    assert bytes(found["tokens"]).decode() == written


@pytest.mark.parametrize("n", [1, 3])
def test_choices(client: httpx.Client, n: int) -> None:
    content = complete(client, n=n)
    # the oracle's row r draws as row 0 of the seed r higher does
    assert [each["text"] for each in content["choices"]] == [words(4, 7 + row) for row in range(n)]
    assert [each["index"] for each in content["choices"]] == list(range(n))
    assert content["usage"]["completion_tokens"] == 4 * n


def test_several_prompts(client: httpx.Client) -> None:
    content = complete(client, prompt=["a", [98, 99], "def"], n=2, echo=True)
    texts = [each["text"] for each in content["choices"]]
    assert texts == [p + words(4, 7 + row) for p, seeds in (("a", 0), ("bc", 0), ("def", 0)) for row in (seeds, 1)]
    assert content["usage"] == {"prompt_tokens": 6, "completion_tokens": 24, "total_tokens": 30}


@pytest.mark.parametrize("prompt", [[104, 105], [[104, 105]], ["hi"], "hi"])
def test_a_prompt_in_all_its_forms(client: httpx.Client, prompt: Any) -> None:
    content = complete(client, prompt=prompt, echo=True)
    assert content["choices"][0]["text"] == "hi" + words(4)
    assert content["usage"]["prompt_tokens"] == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"best_of": 3},
        {"use_beam_search": True, "best_of": 3},
        {"num_beams": 4, "n": 2, "length_penalty": 0.5, "early_stopping": True},
    ],
)
def test_more_answers_are_made_than_given(client: httpx.Client, fields: dict[str, Any]) -> None:
    content = complete(client, **fields)
    assert len(content["choices"]) == fields.get("n", 1)
    assert all(len(each["text"]) == 20 for each in content["choices"])


def test_best_of_counts_all_that_was_made(client: httpx.Client) -> None:
    assert complete(client, best_of=3, n=2)["usage"]["completion_tokens"] == 12


def test_stop_strings_even_over_tokens(client: httpx.Client) -> None:
    whole = words(10)
    stop = whole[12:16]
    assert " " in stop  # so that it is split over two tokens
    content = complete(client, stop=["nowhere", stop], max_tokens=10)
    assert (content["choices"][0]["text"], content["choices"][0]["finish_reason"]) == (whole[:12], "stop")
    shown = complete(client, stop=stop, max_tokens=10, include_stop_str_in_output=True)
    assert shown["choices"][0]["text"] == whole[:16]


def test_stop_tokens(client: httpx.Client) -> None:
    content = complete(client, stop_token_ids=[token(7, 2)], max_tokens=10)
    assert (content["choices"][0]["text"], content["choices"][0]["finish_reason"]) == (words(2), "stop")
    assert content["usage"]["completion_tokens"] == 3


def test_the_same_seed_gives_the_same_text_and_no_seed_another(client: httpx.Client) -> None:
    assert complete(client, seed=-3)["choices"] == complete(client, seed=-3)["choices"]
    first, second = (complete(client, seed=None)["choices"][0]["text"] for _ in range(2))
    assert first != second


def test_logprobs_of_completions(client: httpx.Client) -> None:
    told = complete(client, logprobs=1, max_tokens=2)["choices"][0]["logprobs"]
    one, two = words(2)[:5], words(2)[5:]
    assert told == {
        "tokens": [one, two],
        "token_logprobs": [0.0, 0.0],
        "top_logprobs": [{one: 0.0}, {two: 0.0}],
        "text_offset": [0, 5],
    }


def test_logprobs_of_prompts(client: httpx.Client) -> None:
    one, two = words(2)[:5], words(2)[5:]
    choice = complete(client, prompt="a@", logprobs=1, max_tokens=2, echo=True)["choices"][0]
    assert choice["text"] == "a@" + words(2)
    # of what was said the oracle's logarithm is the id by -256; and it is sure of its own words
    assert choice["logprobs"] == {
        "tokens": ["a", "@", one, two],
        "token_logprobs": [None, -0.25, 0.0, 0.0],
        "top_logprobs": [None, {"@": -0.25}, {one: 0.0}, {two: 0.0}],
        "text_offset": [0, 1, 2, 7],
    }
    # as programs that compare texts ask: ids, and nothing to follow
    content = complete(client, prompt=[[97, 64], [98, 32, 128]], logprobs=0, max_tokens=0, echo=True)
    assert [each["text"] for each in content["choices"]] == ["a@", "b "]
    told = [each["logprobs"]["token_logprobs"] for each in content["choices"]]
    assert told == [[None, -0.25], [None, -0.125, -0.5]]
    assert content["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}
    assert complete(client, prompt="hi", max_tokens=0, echo=True)["choices"][0]["text"] == "hi"
    long = client.post(COMPLETIONS, json={"prompt": "a" * 9000, "max_tokens": 0, "echo": True, "logprobs": 0})
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_dialogues(client: httpx.Client, stream: bool) -> None:
    answer = client.post(
        CHAT, json={"messages": HI, "seed": 7, "max_tokens": 2, "logprobs": True, "top_logprobs": 1, "stream": stream}
    )
    if stream:
        chunks = [chunk["choices"][0] for chunk in events(answer.text)[:-1]]
        told = [each for chunk in chunks if chunk["logprobs"] for each in chunk["logprobs"]["content"]]
    else:
        told = answer.json()["choices"][0]["logprobs"]["content"]
    assert [each["token"] for each in told] == [words(2)[:5], words(2)[5:]]
    assert [each["bytes"] for each in told] == [list(words(2)[:5].encode()), list(words(2)[5:].encode())]
    assert [each["top_logprobs"][0]["logprob"] for each in told] == [0.0, 0.0]


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream(client: httpx.Client, usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if usage else {}
    answer = client.post(CHAT, json={"messages": HI, "seed": 7, "max_tokens": 3, "stream": True, **options})
    *chunks, done = events(answer.text)
    assert done == "[DONE]"
    last = chunks.pop() if usage else None
    assert len({(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == words(3)
    assert (deltas[-1], chunks[-1]["choices"][0]["finish_reason"]) == ({}, "length")
    if last:
        count = len(PROMPT)
        assert (last["choices"], last["usage"]["total_tokens"]) == ([], count + 3)
        assert all(chunk["usage"] is None for chunk in chunks)
    else:
        assert all("usage" not in chunk for chunk in chunks)
    assert "event:" not in answer.text
    assert not re.search("^id:", answer.text, re.MULTILINE)


ALLOWED = {
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "typical_p": 0.5,
    "repetition_penalty": 1.2,
    "presence_penalty": 1,
    "frequency_penalty": -1,
    "logit_bias": {"5": 1},
    "ignore_eos": True,
    "min_tokens": 2,
    "do_sample": False,
    "max_tokens": 16,
    "user": "somebody",
    "model": MODEL,
}


@pytest.mark.parametrize("url", [COMPLETIONS, CHAT])
def test_every_field_is_taken(client: httpx.Client, url: str) -> None:
    content = post(client, url, **{"prompt": "hi"} if url == COMPLETIONS else {"messages": HI}, seed=7, **ALLOWED)
    assert content["choices"][0]["finish_reason"] == "length"


REFUSED = {
    "temperature": 2.1,
    "top_p": 0,
    "top_k": -2,
    "min_p": 1.1,
    "typical_p": 0,
    "repetition_penalty": 0,
    "presence_penalty": 2.1,
    "frequency_penalty": -2.1,
    "logit_bias": {"5": 101},
    "min_tokens": -1,
    "n": 17,
    "best_of": 0,
    "num_beams": 17,
    "use_beam_search": "perhaps",
    "length_penalty": 11,
    "early_stopping": "now",
    "stop": ["a"] * 5,
    "stop_token_ids": [99_999_999],
    "max_tokens": 0,
    "seed": 2**63,
    "stream": "maybe",
    "stream_options": {"include_usage": True},
    "user": "x" * 513,
    "suffix": "x",
    "tools": [{"type": "function"}],
    "response_format": {"type": "json_object"},
    "chat_template": "{{ x }}",
    "echo": "maybe",
}


def test_roles_that_a_template_does_not_take(client: httpx.Client) -> None:
    answers = [client.post(CHAT, json={"model": ALPACA, "messages": HI + HI, "stream": each}) for each in (True, False)]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert "must speak in turn" in answers[0].json()["error"]["message"]


@pytest.mark.parametrize("field", REFUSED)
def test_what_cannot_be_had_is_refused_by_name(client: httpx.Client, field: str) -> None:
    extra = {"num_beams": 2} if field == "length_penalty" else {}
    url, base = (CHAT, {"messages": HI}) if field == "response_format" else (COMPLETIONS, {"prompt": "hi"})
    answer = client.post(url, json={**base, **extra, field: REFUSED[field]})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert set(error) == {"message", "type", "param", "code"}
    assert field in error["message"]
    assert answer.headers["x-should-retry"] == "false"


def test_a_context_that_is_too_long(client: httpx.Client) -> None:
    answer = client.post(COMPLETIONS, json={"prompt": "hi", "max_tokens": 9000})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == (
        "This model's maximum context length is 8192 tokens. "
        "However, you requested 9002 tokens (2 in the messages, 9000 in the completion)."
    )


def test_models(client: httpx.Client) -> None:
    first, second, _ = client.get("/v1/models").json()["data"]
    assert (first["id"], first["object"], second["id"]) == (MODEL, "model", ALPACA)
    assert client.get(f"/v1/models/{MODEL}").json() == first
    missing = client.post(CHAT, json={"model": "nobody", "messages": HI})
    assert (missing.status_code, missing.json()["error"]["message"]) == (404, "The model `nobody` does not exist.")


def test_tokenize_and_back(client: httpx.Client) -> None:
    found = post(client, "/v1/tokenize", model=MODEL, prompt="Grüße")
    assert found == {"tokens": list("Grüße".encode()), "count": 7, "max_model_len": 8192}
    assert post(client, "/v1/detokenize", model=MODEL, tokens=found["tokens"]) == {"prompt": "Grüße"}
    assert post(client, "/v1/tokenize", prompt="") == {"tokens": [], "count": 0, "max_model_len": 8192}
    assert post(client, "/v1/detokenize", tokens=[]) == {"prompt": ""}


def test_embeddings(client: httpx.Client) -> None:
    content = post(client, "/v1/embeddings", model=MODEL, input=["hi", "you there"])
    assert (content["object"], content["model"]) == ("list", MODEL)
    assert [(each["object"], each["index"]) for each in content["data"]] == [("embedding", 0), ("embedding", 1)]
    assert content["usage"] == {"prompt_tokens": 11, "total_tokens": 11}
    one = content["data"][0]["embedding"]
    assert math.hypot(*one) == pytest.approx(1)
    # a single text, ids, and OpenAI's shorter form
    assert post(client, "/v1/embeddings", input="hi")["data"][0]["embedding"] == one
    assert post(client, "/v1/embeddings", input=[104, 105])["data"][0]["embedding"] == one
    (short,) = post(client, "/v1/embeddings", input="hi", encoding_format="base64")["data"]
    assert list(struct.unpack(f"<{len(one)}f", base64.b64decode(short["embedding"]))) == one


@pytest.mark.parametrize(
    ("url", "fields", "field"),
    [
        ("/v1/tokenize", {}, "prompt"),
        ("/v1/tokenize", {"prompt": "a", "messages": "a"}, "prompt"),
        ("/v1/tokenize", {"prompt": "a", "add_special_tokens": False}, "add_special_tokens"),
        ("/v1/detokenize", {}, "tokens"),
        ("/v1/detokenize", {"tokens": [-1]}, "tokens"),
        ("/v1/detokenize", {"tokens": [2**64]}, "tokens"),
        ("/v1/detokenize", {"tokens": [70_000]}, "no token id"),
        ("/v1/embeddings", {}, "input"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": ""}, "input"),
        ("/v1/embeddings", {"input": "a", "dimensions": 3}, "dimensions"),
        ("/v1/embeddings", {"input": "a" * 9000}, "context"),
        ("/v1/cancel", {}, "id"),
    ],
)
def test_readings_that_cannot_be(client: httpx.Client, url: str, fields: dict[str, Any], field: str) -> None:
    answer = client.post(url, json=fields)
    assert answer.status_code == 400
    assert field in answer.json()["error"]["message"]


def test_a_job_can_be_watched_and_ended_from_another_gateway(client: httpx.Client, other: httpx.Client) -> None:
    body = {"prompt": "hi", "seed": 7, "max_tokens": 2000, "stream": True, "model": MODEL}
    with client.stream("POST", COMPLETIONS, json=body) as answer:
        lines = answer.iter_lines()
        first = json.loads(next(lines).removeprefix("data: "))
        state = other.get(f"/v1/jobs/{first['id']}").json()
        assert (state["id"], state["status"], state["model"]) == (first["id"], "in_progress", MODEL)
        assert (state["object"], state["created"]) == ("job", first["created"])
        assert (state["position"], state["tokens"] > 0) == (None, True)
        ended = other.post("/v1/cancel", json={"id": first["id"]})
        assert ended.status_code == 200
        *_, raw, done = [line for line in lines if line]
    last = json.loads(raw.removeprefix("data: "))
    assert (last["choices"][0]["finish_reason"], done) == ("stop", "data: [DONE]")
    assert other.get(f"/v1/jobs/{first['id']}").json()["status"] == "cancelled"
    assert other.delete(f"/v1/jobs/{first['id']}").json()["status"] == "cancelled"


def test_who_cancels_an_answer_to_several_prompts_means_all_of_it(client: httpx.Client, other: httpx.Client) -> None:
    body = {"prompt": ["a", "b", "c"], "max_tokens": 2000, "stream": True}
    with client.stream("POST", COMPLETIONS, json=body) as answer:
        lines = answer.iter_lines()
        first = json.loads(next(lines).removeprefix("data: "))
        other.delete(f"/v1/jobs/{first['id']}")
        *_, done = [line for line in lines if line]
    assert done == "data: [DONE]"
    state = client.get(f"/v1/jobs/{first['id']}").json()
    assert state["status"] == "cancelled"
    assert state["tokens"] < 6000


@pytest.mark.parametrize("id", ["cmpl-" + "0" * 32, "chatcmpl-x", "x"])
def test_no_such_job(client: httpx.Client, id: str) -> None:
    answers = [
        client.get(f"/v1/jobs/{id}"),
        client.delete(f"/v1/jobs/{id}"),
        client.get(f"/v1/jobs/{id}/stream"),
        client.post("/v1/cancel", json={"id": id}),
    ]
    assert [answer.status_code for answer in answers] == [404] * 4
    assert {answer.json()["error"]["code"] for answer in answers} == {"not_found"}


def numbered(raw: str) -> list[tuple[int, str]]:
    """The events that have ids, with these."""
    return [(int(id), data) for id, data in re.findall(r"^id: (\d+)\ndata: (.*)\n\n", raw, re.MULTILINE)]


def test_a_stream_goes_on_at_another_gateway(client: httpx.Client, other: httpx.Client) -> None:
    body = {"messages": HI, "seed": 7, "max_tokens": 100, "stream": True, "stream_options": {"include_usage": True}}
    seen = ""
    with client.stream("POST", CHAT, json=body, headers={"x-resumable": "true"}) as answer:
        for chunk in answer.iter_text():
            seen += chunk
            if len(numbered(seen)) >= 5:
                break
    begun = numbered(seen)
    id = json.loads(begun[0][1])["id"]
    last = begun[4][0]
    rest = other.get(f"/v1/jobs/{id}/stream", headers={"Last-Event-ID": str(last)})
    assert rest.headers["content-type"] == "text/event-stream; charset=utf-8"
    whole = [json.loads(data) for _, data in begun[:5]] + [json.loads(data) for _, data in numbered(rest.text)]
    assert [id for id, _ in numbered(rest.text)] == list(range(last + 1, 103))
    assert rest.text.endswith("data: [DONE]\n\n")
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in whole[:-1]) == words(100)
    assert whole[-1]["usage"]["completion_tokens"] == 100
    # and whoever comes back once more, when it is done, is told the same
    again = client.get(f"/v1/jobs/{id}/stream", headers={"Last-Event-ID": str(last)})
    assert again.text == rest.text
    from_start = client.get(f"/v1/jobs/{id}/stream")
    assert events(from_start.text)[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_resumable_streams_that_cannot_be(client: httpx.Client) -> None:
    answer = client.post(COMPLETIONS, json={"prompt": ["a", "b"], "stream": True}, headers={"x-resumable": "true"})
    assert answer.status_code == 400
    id = complete(client)["id"]
    bad = client.get(f"/v1/jobs/{id}/stream", headers={"Last-Event-ID": "x"})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "Last-Event-ID")


def test_the_same_key_is_the_same_job(client: httpx.Client, other: httpx.Client) -> None:
    body, headers = {"prompt": ["hi", "you"], "max_tokens": 8}, {"Idempotency-Key": "k1"}
    first, second = (each.post(COMPLETIONS, json=body, headers=headers).json() for each in (client, other))
    assert (first["id"], first["choices"]) == (second["id"], second["choices"])
    others = [
        client.post(COMPLETIONS, json=body, headers={"Idempotency-Key": "k2"}),
        client.post(COMPLETIONS, json=body | {"max_tokens": 9}, headers=headers),
        client.post(COMPLETIONS, json=body, headers=headers | {"Authorization": "Bearer x"}),
    ]
    assert len({first["id"], *(each.json()["id"] for each in others)}) == 4


def test_a_cancelled_answer_is_not_given_to_who_tries_again(client: httpx.Client) -> None:
    body, headers = {"prompt": "hi", "max_tokens": 100, "stream": True}, {"Idempotency-Key": "k3"}
    with client.stream("POST", COMPLETIONS, json=body, headers=headers) as answer:
        lines = answer.iter_lines()
        first = json.loads(next(lines).removeprefix("data: "))
        client.delete(f"/v1/jobs/{first['id']}")
        assert [line for line in lines if line][-1] == "data: [DONE]"
    again = client.post(COMPLETIONS, json=body, headers=headers)
    chunks = events(again.text)[:-1]
    assert chunks[0]["id"] != first["id"]
    assert len("".join(chunk["choices"][0]["text"] for chunk in chunks)) == 500


def test_usage_is_right_after_a_worker_was_lost(client: httpx.Client, oracle: Stack) -> None:
    body = {"prompt": "hi", "seed": 7, "max_tokens": 150, "stream": True, "stream_options": {"include_usage": True}}
    with client.stream("POST", COMPLETIONS, json=body) as answer:
        lines = answer.iter_lines()
        first = json.loads(next(lines).removeprefix("data: "))
        oracle.owner_of(first["id"].removeprefix("cmpl-")).kill()
        rest = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert "".join(each["choices"][0]["text"] for each in [first, *rest[:-1]]) == words(150)
    assert rest[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 150, "total_tokens": 152}


def test_a_client_that_does_not_read_holds_little(client: httpx.Client, oracle: Stack) -> None:
    gateway = oracle.gateways[0]
    chat(client, model=ALPACA, max_tokens=100)
    before = gateway.rss_mb
    body = {"model": ALPACA, "messages": HI, "n": 16, "max_tokens": 4000, "seed": 7, "stream": True}
    with client.stream("POST", CHAT, json=body) as answer:
        lines = answer.iter_lines()
        id = json.loads(next(lines).removeprefix("data: "))["id"]
        until(lambda: client.get(f"/v1/jobs/{id}").json()["status"] == "completed", timeout_s=25)
        grown = gateway.rss_mb - before
        texts = dict.fromkeys(range(16), "")
        for line in lines:
            if line.startswith("data: {"):
                (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == {row: words(4000, 7 + row) for row in range(16)}
    # all of it takes more than 15 MB
    assert grown < 8
