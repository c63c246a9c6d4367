"""What clients send to the OpenAI API, and the jobs that it becomes."""

from pathlib import Path
from typing import Any

import pytest

from gateway.openai_calls import Call, chat_call, completion_call
from gateway.openai_prompts import Limits
from gateway.openai_types import ChatRequest, CompletionRequest, unknown_fields
from shared.catalog import Catalog, Chat, Family, Model
from shared.errors import Code, CorollaError, InvalidField
from shared.messages import JobRequest, Message
from shared.sampling import BeamParams, SamplingParams

DEMO = Model("corolla/demo", "Demo", aliases=("demo",))
WRAPPED = Model("corolla/wrapped", "Wrapped", chat=Chat(wrap_completions=True))
SECRET = Model("corolla/secret", "Secret", public_api=False)
CATALOG = Catalog((Family("F", (DEMO, WRAPPED, SECRET)),), Path())
LIMITS = Limits(CATALOG, max_prompt_chars=100, max_prompts=128)


def completion(**fields: Any) -> Call:
    return completion_call(fields, LIMITS).seeded(7)


def chat(**fields: Any) -> Call:
    return chat_call({"messages": "hi"} | fields, LIMITS).seeded(7)


def job(**fields: Any) -> JobRequest:
    (request,) = completion(**{"prompt": "hi"} | fields).requests
    return request


def refused(**fields: Any) -> str:
    with pytest.raises(InvalidField) as raised:
        completion(**{"prompt": "hi"} | fields)
    assert f"`{raised.value.field}" in raised.value.message
    return raised.value.field


def chat_refused(**fields: Any) -> str:
    with pytest.raises(InvalidField) as raised:
        chat(**fields)
    return raised.value.field


def test_defaults_of_completions() -> None:
    call = completion(prompt="A cat")
    expected = JobRequest(
        "corolla/demo",
        SamplingParams(do_sample=True, seed=7),
        "A cat",
        max_new_tokens=16,
        show_stop=False,
        show_special=False,
    )
    assert call.requests == (expected,)
    assert (call.model, call.choices, call.chat, call.stream) == ("corolla/demo", 1, False, False)
    assert (call.logprobs, call.include_usage, call.user, call.echoes) == (False, False, None, ())


def test_defaults_of_chat() -> None:
    call = chat(messages=[{"role": "user", "content": "A cat"}])
    expected = JobRequest(
        "corolla/demo",
        SamplingParams(do_sample=True, seed=7),
        max_new_tokens=512,
        show_stop=False,
        show_special=False,
        messages=(Message("user", "A cat"),),
        shrink=True,
    )
    assert (call.requests, call.chat) == ((expected,), True)


def test_every_sampling_field_arrives() -> None:
    fields = {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "typical_p": 0.8,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"5": -100},
        "min_tokens": 3,
        "stop_token_ids": [1, 2],
        "ignore_eos": True,
        "seed": 11,
        "logprobs": 2,
    }
    sampling = job(**fields).sampling
    assert sampling == SamplingParams(
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        typical_p=0.8,
        repetition_penalty=1.1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={5: -100.0},
        min_tokens=3,
        stop_token_ids=(1, 2),
        ignore_eos=True,
        seed=11,
        logprobs=2,
    )


def test_strings_count_as_the_numbers_and_flags_that_they_spell() -> None:
    assert job(temperature="0.5", top_k="-1", max_tokens="9", n="2", seed="5") == job(
        temperature=0.5, top_k=-1, max_tokens=9, n=2, seed=5
    )
    assert completion(prompt="x", stream="true", stream_options={"include_usage": "1"}).include_usage


def test_null_is_absent() -> None:
    names = {*CompletionRequest.__struct_fields__, "suffix"} - {"prompt"}
    assert job(**dict.fromkeys(names)) == job()
    names = {*ChatRequest.__struct_fields__, "tools"} - {"messages"}
    assert chat(**dict.fromkeys(names)) == chat()


@pytest.mark.parametrize("greedy", [{"temperature": 0}, {"do_sample": False}, {"use_beam_search": True}])
def test_greedy(greedy: dict[str, Any]) -> None:
    assert not job(**greedy).sampling.do_sample
    assert job(**greedy).beams is None


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63 - 1, 0])
def test_a_seed_may_be_any_signed_number(seed: int) -> None:
    assert job(seed=seed).sampling.seed == seed % 2**63


def test_prompts_of_all_kinds() -> None:
    prompts = {
        "a": ["a"],
        ("a", "b"): ["a", "b"],
        (1, 2, 3): [(1, 2, 3)],
        ((1, 2), (3,)): [(1, 2), (3,)],
        ("a", (1, 2)): ["a", (1, 2)],
    }
    for given, expected in prompts.items():
        plain = [list(each) if isinstance(each, tuple) else each for each in given] if given != "a" else given
        assert [request.prompt for request in completion(prompt=plain).requests] == expected
    assert [request.prompt for request in completion().requests] == [None]


def test_several_prompts_have_seeds_of_their_own_unless_the_client_gave_one() -> None:
    assert [each.sampling.seed for each in completion(prompt=["a", "a"]).requests] == [7, 8]
    assert [each.sampling.seed for each in completion(prompt=["a", "a"], seed=3).requests] == [3, 3]


def test_choices_and_candidates() -> None:
    assert (job(n=3).choices, job(n=3).candidates) == (3, 0)
    assert (job(n=2, best_of=5).choices, job(n=2, best_of=5).candidates) == (2, 5)
    assert job(n=2, best_of=2).candidates == 0
    assert refused(n=3, best_of=2) == "best_of"
    assert chat_refused(best_of=2) == "best_of"
    assert chat(n=2, best_of=2).requests == chat(n=2).requests


def test_beams() -> None:
    assert job(num_beams=4).beams == BeamParams(4)
    assert job(use_beam_search=True, best_of=3, n=2).beams == BeamParams(3)
    assert job(use_beam_search=True, n=2).beams == BeamParams(2)
    assert job(use_beam_search=True, best_of=3).candidates == 0
    assert chat(use_beam_search=True, best_of=3).requests[0].beams == BeamParams(3)
    assert job(num_beams=2, length_penalty=0.5, early_stopping=True).beams == BeamParams(2, 0.5, True)
    assert job(num_beams=2, early_stopping="never").beams == BeamParams(2, 1.0, None)
    assert job(num_beams=1).beams is None
    assert refused(num_beams=2, n=3) == "num_beams"
    assert refused(use_beam_search=True, best_of=2, n=3) == "best_of"


def test_stops() -> None:
    assert job(stop="###").stop == ("###",)
    assert job(stop=["a", "", "b"]).stop == ("a", "b")
    assert job(stop="x", include_stop_str_in_output=True).show_stop
    assert refused(stop=["a"] * 5) == "stop"
    assert refused(stop="x" * 1001) == "stop"
    assert refused(stop=[5]) == "stop"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.1),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", "nan"),
        ("top_k", -2),
        ("n", 0),
        ("n", 17),
        ("best_of", 17),
        ("num_beams", 17),
        ("max_tokens", 0),
        ("logprobs", 6),
        ("seed", 2**63),
        ("logit_bias", {"x": 1}),
        ("logit_bias", [1]),
        ("stream", "yes"),
        ("stream_options", 5),
        ("early_stopping", "always"),
        ("prompt", []),
        ("prompt", [[]]),
        ("prompt", ["a"] * 129),
        ("prompt", 5),
        ("prompt", ["a", 5]),
        ("prompt", [[1.5]]),
        ("prompt", "x" * 101),
        ("model", 5),
        ("user", {}),
    ],
)
def test_wrong_values_are_refused_by_name(field: str, value: object) -> None:
    assert refused(**{field: value}) == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("suffix", "end"),
        ("tools", []),
        ("tool_choice", "required"),
        ("functions", [{}]),
        ("chat_template", "{{ x }}"),
        ("guided_json", {}),
        ("modalities", ["audio"]),
    ],
)
def test_what_there_is_not_is_refused_and_not_ignored(field: str, value: object) -> None:
    assert refused(**{field: value}) == field
    assert chat_refused(**{field: value}) == field


def test_what_changes_nothing_is_not_refused() -> None:
    assert chat(tool_choice="none", modalities=["text"], response_format={"type": "text"}) == chat()
    assert chat_refused(response_format={"type": "json_object"}) == "response_format"
    with pytest.raises(InvalidField, match=r"^`response_format` is not supported, other than {\"type\":\"text\"}$"):
        chat(response_format={"type": "json_schema", "json_schema": {}})
    assert completion(suffix="") == completion()


def test_echo() -> None:
    assert completion(prompt=["a", [1, 2]], echo=True).echoes == ("a", (1, 2))
    assert completion(echo=True, logprobs=0).logprobs
    alone = completion(echo=True, max_tokens=0)
    assert (alone.silent, completion(echo=True).silent) == (True, False)
    assert refused(max_tokens=0) == "max_tokens"
    assert refused(max_tokens=0, echo=False) == "max_tokens"


def test_usage_in_a_stream_needs_a_stream() -> None:
    assert refused(stream_options={"include_usage": True}) == "stream_options"
    assert completion(prompt="a", stream_options={"include_usage": False}).include_usage is False


def test_logprobs_of_chat() -> None:
    assert chat(logprobs=True).requests[0].sampling.logprobs == 0
    assert chat(logprobs=True, top_logprobs=20).requests[0].sampling.logprobs == 20
    assert chat(logprobs=False).requests[0].sampling.logprobs is None
    assert chat_refused(top_logprobs=2) == "top_logprobs"
    assert chat_refused(logprobs=True, top_logprobs=21) == "top_logprobs"


def test_both_names_of_the_length_in_chat() -> None:
    for fields in ({"max_tokens": 5}, {"max_completion_tokens": 5}, {"max_tokens": 9, "max_completion_tokens": 5}):
        (request,) = chat(**fields).requests
        assert (request.max_new_tokens, request.shrink) == (5, False)


def test_messages() -> None:
    given = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "name": "x"},
        {"role": "assistant", "content": None},
        {"role": "user", "message": "old"},
    ]
    assert chat(messages=given).requests[0].messages == (
        Message("system", "be brief"),
        Message("user", "one\ntwo"),
        Message("assistant", ""),
        Message("user", "old"),
    )
    assert chat(messages="hi").requests[0].messages == (Message("user", "hi"),)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        None,
        5,
        [5],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"content": "hi"}],
        [{"role": "king", "content": "hi"}],
        [{"role": "tool", "content": "hi"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}],
        [{"role": "user", "content": "x" * 101}],
    ],
)
def test_wrong_messages(messages: object) -> None:
    assert chat_refused(messages=messages) == "messages"


def test_no_messages() -> None:
    with pytest.raises(InvalidField, match="`messages` is required"):
        chat_call({}, LIMITS)


def test_a_catalogue_may_wrap_completions() -> None:
    (request,) = completion(prompt="Tell me", model="corolla/wrapped").requests
    assert (request.prompt, request.messages) == (None, (Message("user", "Tell me"),))
    (request,) = completion(prompt=[1, 2], model="corolla/wrapped").requests
    assert (request.prompt, request.messages) == ((1, 2), ())
    fields: dict[str, Any]
    for fields in ({"logprobs": 1}, {"max_tokens": 0}):
        assert refused(model="corolla/wrapped", prompt="Tell me", echo=True, **fields) == "echo"
        assert completion(model="corolla/wrapped", prompt=[1, 2], echo=True, **fields).echoes == ((1, 2),)


def test_models() -> None:
    assert completion(prompt="x", model="demo").model == "demo"
    assert completion(prompt="x", model="demo").requests[0].model == "corolla/demo"
    for name, code in (("nobody", Code.MODEL_NOT_FOUND), ("corolla/secret", Code.MODEL_NOT_PUBLIC)):
        with pytest.raises(CorollaError) as raised:
            completion(prompt="x", model=name)
        assert raised.value.code is code


def test_unknown_fields() -> None:
    assert unknown_fields({"prompt": "x", "colour": 1, "messages": []}, CompletionRequest) == ["colour", "messages"]


@pytest.mark.parametrize("prompt", [[2**64], [[-1]], [[1], [2**31]]])
def test_ids_that_no_model_can_have(prompt: Any) -> None:
    assert refused(prompt=prompt) == "prompt"
