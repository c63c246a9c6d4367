"""Files and batches as users of the official client have them; see suite_openai.py."""

import json
import os

import openai
import pytest

WORDS = os.environ["WORDS"]
ENDPOINT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


@pytest.fixture
def client() -> openai.OpenAI:
    return openai.OpenAI(base_url=os.environ["COROLLA_URL"] + "/v1", api_key="none", max_retries=0)


def line(name: str, tokens: int) -> str:
    body = {"messages": [{"role": "user", "content": "hi"}], "seed": 7, "max_tokens": tokens}
    return json.dumps({"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body})


def test_a_batch_and_its_files(client: openai.OpenAI) -> None:
    content = "\n".join((line("one", 3), line("two", 5))).encode()
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    assert (file.filename, file.bytes, file.purpose) == ("requests.jsonl", len(content), "batch")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == content
    assert file.id in [each.id for each in client.files.list(purpose="batch")]

    asked = {"endpoint": ENDPOINT, "completion_window": "24h", "metadata": {"for": "a test"}}
    batch = client.batches.create(input_file_id=file.id, **asked)
    assert batch.metadata == {"for": "a test"}
    while batch.status not in ENDED:
        batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 2, 0)
    assert client.batches.list(limit=1).data == [batch]

    lines = [json.loads(each) for each in client.files.content(batch.output_file_id).text.splitlines()]
    texts = {each["custom_id"]: each["response"]["body"]["choices"][0]["message"]["content"] for each in lines}
    assert texts == {"one": WORDS[:15], "two": WORDS[:25]}
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_a_batch_is_cancelled(client: openai.OpenAI) -> None:
    file = client.files.create(file=line("one", 500).encode(), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")
    while batch.status == "validating":
        batch = client.batches.retrieve(batch.id)
    batch = client.batches.cancel(batch.id)
    assert batch.status == "cancelling"
    while batch.status not in ENDED:
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "cancelled"


def test_a_file_for_something_else_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=b"{}", purpose="fine-tune")
    assert caught.value.param == "purpose"
