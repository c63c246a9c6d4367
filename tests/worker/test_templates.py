"""Dialogues as prompts: the named templates to the letter, and models' own ones, which nobody here wrote."""

import sys
import time

import jinja2
import pytest
import transformers

from shared.catalog import Chat, TemplateName
from shared.errors import Code, CorollaError
from shared.messages import Message
from tests.services import ROOT
from worker import templates
from worker.templates import Own, Template, make_template
from worker.tokenizer import load_tokenizer

MARKS = {"bos_token": "<s>", "eos_token": "</s>"}
SYSTEM = Message("system", "Be brief.")
ONE = (Message("user", "Hi"),)
TWO = (*ONE, Message("assistant", "Hello!"), Message("user", "Bye"))

# As many models have it: turns, with a system block, and an error for roles out of turn.
LLAMA = """{% if messages[0]['role'] == 'system' %}
{% set loop_messages = messages[1:] %}
{% set system_message = messages[0]['content'] %}
{% else %}
{% set loop_messages = messages %}
{% endif %}
{% for message in loop_messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}
{%- else %}
{{ ' ' + message['content'] | trim + ' ' + eos_token }}
{%- endif %}
{% endfor %}"""


def named(name: TemplateName) -> Template:
    return make_template(Chat(template=name), LLAMA, MARKS)


def refused(template: Template, *messages: Message) -> str:
    with pytest.raises(CorollaError) as raised:
        template.write(messages)
    assert raised.value.code is Code.INVALID
    return raised.value.message


def test_llama2() -> None:
    template = named("llama2")
    assert template.write(ONE) == "[INST] Hi [/INST]"
    assert template.write(TWO) == "[INST] Hi [/INST] Hello! </s><s>[INST] Bye [/INST]"
    assert template.write((SYSTEM, *TWO)) == (
        "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello! </s><s>[INST] Bye [/INST]"
    )
    assert (template.stops, template.marked) == ((), False)


def test_alpaca2_has_a_system_text_of_its_own() -> None:
    assert named("alpaca2").write(ONE) == (
        "[INST] <<SYS>>\nYou are a helpful assistant. 你是一个乐于助人的助手。\n<</SYS>>\n\nHi [/INST]"
    )
    assert named("alpaca2").write((SYSTEM, *ONE)) == "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]"
    assert named("alpaca2").write((Message("system", ""), *ONE)) == "[INST] Hi [/INST]"


def test_alpaca() -> None:
    assert named("alpaca").write(ONE) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nHi\n\n### Response:\n"
    )
    assert named("alpaca").write((SYSTEM, *TWO)) == (
        "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello!\n\n### Instruction:\nBye\n\n### Response:\n"
    )
    assert named("alpaca").stops == ("### Instruction:",)


def test_chatml() -> None:
    assert named("chatml").write((SYSTEM, *TWO)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )
    assert named("chatml").stops == ("<|im_end|>",)


def test_plain_turns_end_as_the_catalogue_says() -> None:
    assert named("plain").write((SYSTEM, *TWO)) == "Be brief.###Human: Hi###Assistant: Hello!###Human: Bye###Assistant:"
    assert named("plain").stops == ("###", "</s>")
    chat = Chat(sep_token="\n", stop_token="\n", extra_stop_sequences=("\n", "Human:"))
    other = make_template(chat, None, MARKS)
    assert (other.write(ONE), other.stops) == ("Human: Hi\nAssistant:", ("\n", "Human:"))


@pytest.mark.parametrize("name", ["llama2", "alpaca2", "alpaca"])
def test_the_last_system_message_wins(name: TemplateName) -> None:
    both = (Message("system", "Be long."), *ONE, Message("system", "Be brief."))
    assert named(name).write(both) == named(name).write((SYSTEM, *ONE))


@pytest.mark.parametrize("name", ["llama2", "alpaca2", "alpaca"])
@pytest.mark.parametrize("roles", ["assistant", "user user", "user assistant", "system", "assistant user"])
def test_roles_out_of_turn(name: TemplateName, roles: str) -> None:
    messages = [Message(role, "x") for role in roles.split()]
    assert (
        refused(named(name), *messages) == "`messages`: user and assistant must speak in turn, the user first and last"
    )


def test_the_models_own_counts_where_the_catalogue_names_none() -> None:
    template = make_template(Chat(), LLAMA, MARKS)
    assert template.write(TWO) == "<s>[INST] Hi [/INST] Hello! </s><s>[INST] Bye [/INST]"
    assert (template.stops, template.marked) == ((), True)
    assert named("chatml").write(ONE).startswith("<|im_start|>")


def test_what_the_models_own_rejects_is_the_clients_mistake() -> None:
    template = Own(LLAMA, MARKS)
    assert refused(template, *ONE, *ONE) == (
        "`messages`: the model's template does not take these messages: "
        "Conversation roles must alternate user/assistant/user/assistant/..."
    )


def test_no_template_at_all() -> None:
    with pytest.raises(jinja2.TemplateError):
        make_template(Chat(), "{% for %}", MARKS)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__['sys'].exit() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ messages.append({}) }}",
        "{{ messages[0].update(role='x') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
    ],
)
def test_a_hostile_template_reaches_nothing(source: str) -> None:
    message = refused(Own(source, MARKS), *ONE)
    assert message.startswith("`messages`: the model's template does not take these messages")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 10**12 }}",
        "{{ 'x' * 1000000000 }}",
        "{{ [1] * 1000000000 }}",
        "{{ 9 ** 999999999 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{% for i in range(100000) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_what_a_template_makes_is_bounded(source: str) -> None:
    started = time.monotonic()
    refused(Own(source, MARKS), *ONE)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("body", ["", "{{ i ~ j }}"])
def test_the_time_of_a_template_is_bounded(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    monkeypatch.setattr(templates, "MAX_TIME_S", 0.1)
    loops = "{% for i in range(9999) %}{% for j in range(9999) %}" + body + "{% endfor %}{% endfor %}"
    before = sys.gettrace()
    assert refused(Own(loops, MARKS), *ONE) == "`messages`: the model's template makes too much of these messages"
    assert sys.gettrace() is before


def test_the_demo_model_gets_what_it_was_trained_on() -> None:
    tokenizer = load_tokenizer(str(ROOT / "deploy/demo/model"), None, transformers.GenerationConfig())
    template = make_template(Chat(), tokenizer.chat_template, tokenizer.marks)
    text = template.write((SYSTEM, *ONE))
    assert text == "Be brief.###Human: Hi###Assistant:"
    assert tokenizer.decode(tokenizer.encode(text, True)) == "<s>" + text
