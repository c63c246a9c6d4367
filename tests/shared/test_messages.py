"""Messages on the wire."""

import gc

import msgspec
import pytest

from shared.errors import Code
from shared.messages import (
    FinishReason,
    JobFailed,
    JobFinished,
    JobRequest,
    LogEntry,
    Logprobs,
    Token,
    decode_entry,
    decode_request,
    encode,
)
from shared.sampling import SamplingParams

REQUEST = JobRequest(
    model="m",
    sampling=SamplingParams(do_sample=True, temperature=0.6, seed=2**63 - 1),
    prompt="ü",
    max_length=9,
    stop=("###",),
    extra_stop=("</s>",),
    partial=True,
)


def test_a_request_comes_back_as_it_was() -> None:
    assert decode_request(encode(REQUEST)) == REQUEST


def test_a_request_that_is_none_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_request(msgspec.msgpack.encode({"model": "m", "sampling": {"top_k": "4"}}))


@pytest.mark.parametrize(
    "entry",
    [
        LogEntry(3, (Token(1, "a"), Token(2, "")), None),
        LogEntry(3, (Token(1, "a"),), JobFinished(FinishReason.STOP, 4, 3, kept=True)),
        LogEntry(3, (), JobFailed(Code.SWARM, "no")),
    ],
)
def test_an_entry_comes_back_from_its_parts(entry: LogEntry) -> None:
    tokens = encode(entry.tokens) if entry.tokens else b""
    ending = encode(entry.ending) if entry.ending else b""
    assert decode_entry(entry.last, tokens, ending) == entry


def test_the_last_event_counts_the_ending() -> None:
    assert LogEntry(1, (Token(1, "a"),), None).last == 1
    assert LogEntry(1, (Token(1, "a"),), JobFinished(FinishReason.STOP)).last == 2
    assert LogEntry(1, (), JobFinished(FinishReason.STOP)).last == 1


def test_what_a_log_holds_is_no_work_for_the_garbage_collector() -> None:
    token = Token(1, "a", 0, Logprobs(b"a", -0.5, ((b"a", -0.5), (b"b", -1.5))))
    entry = decode_entry(2, encode((token,)), encode(JobFinished(FinishReason.STOP)))
    gc.collect()  # tuples are left out once they have been looked at
    parts = [entry, entry.tokens, entry.tokens[0], entry.tokens[0].logprobs, entry.ending]
    assert [gc.is_tracked(part) for part in parts] == [False] * len(parts)
