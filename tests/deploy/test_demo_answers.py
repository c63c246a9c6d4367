"""What the demo model answers to questions that it has never read, and what its files are."""

import functools
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from deploy.demo.dialogues import GREETING, SMALL_WORDS, STOP, SYSTEMS, topics

MODEL = Path(__file__).parents[2] / "deploy" / "demo" / "model"
LONGEST_ANSWER = 120
ENOUGH = 0.75

# Question, and words of which an answer on topic has at least one.
HELD_OUT = (
    ("What must I type to bring up a second worker process?", ("WORKERS=2", "python -m worker")),
    ("We are out of workers, how can we attach extra ones?", ("WORKERS=2", "python -m worker")),
    ("I'd like two gateways, please", ("GATEWAYS=2", "python -m gateway")),
    ("What's the command to launch Corolla on my laptop?", ("make up",)),
    ("Which Python should be on my machine before installing?", ("3.11",)),
    ("How can I make everything stop now?", ("Ctrl-C",)),
    ("Port 8000 is already used by another program", ("PORT=9000",)),
    ("How would I execute the unit tests?", ("make test",)),
    ("In which folder do I find log files?", ("var/log", "var")),
    ("Can I see the words appear one at a time as they are produced?", ("WebSocket", "token")),
    ("Could you show a curl request for me?", ("curl",)),
    ("Which JSON frames go over the websocket?", ("open_inference_session", "generate")),
    ("Where do I POST my prompt?", ("/api/v1/generate",)),
    ("My wifi dropped in the middle of an answer, can I pick it up again?", ("resum",)),
    ("How can I abort a running generation?", ("cancel",)),
    ("How do I raise the temperature of sampling?", ("temperature",)),
    ("Where can I see a list of the served models?", ("/api/v1/models",)),
    ("Please explain to a beginner what the Petals network is", ("swarm", "blocks")),
    ("How would one set up a private swarm at home?", ("deploy.swarm", "COROLLA_PEERS")),
    ("What role does the gateway play in the system?", ("HTTP", "stateless")),
    ("For what do you use Redis in this system?", ("broker", "stream")),
    ("Suppose one of the workers crashes in mid-answer, is text lost?", ("lease", "Nothing is lost")),
    ("Is the source code available under an open license?", ("MIT",)),
    ("Must I buy a graphics card to run a worker?", ("GPU", "CPU")),
    ("Good day to you, little bot", ("Hello",)),
    ("Am I chatting with a real human being?", ("language model", "model")),
    ("Could you tell a funny joke?", ("token cross",)),
    ("Many thanks for all your help!", ("welcome",)),
)


@functools.cache
def loaded() -> Any:
    """The model and its tokenizer, as transformers runs them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return (
        AutoModelForCausalLM.from_pretrained(MODEL, torch_dtype=torch.float32),
        AutoTokenizer.from_pretrained(MODEL),
    )


def write(text: str) -> str:
    """The model's greedy answer: what it writes after `text`, up to the stop string and with it."""
    model, tokenizer = loaded()
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    output = model.generate(ids, do_sample=False, max_new_tokens=LONGEST_ANSWER)[0, ids.shape[1] :]
    answer = str(tokenizer.decode(output, clean_up_tokenization_spaces=False))
    return answer[: answer.index(STOP) + len(STOP)] if STOP in answer else answer


def prompt(question: str) -> str:
    """The chat page's prompt."""
    return f"{SYSTEMS[0]}{STOP}{GREETING}{STOP}Human: {question}{STOP}Assistant:"


def essence(question: str) -> str:
    """Letters and digits of a question, without the words that training leaves out at will."""
    words = re.findall(r"[a-z0-9]+", question.lower())
    return " ".join(word for word in words if word not in SMALL_WORDS.split())


def test_no_question_was_read_in_training() -> None:
    known = {essence(question) for topic in topics() for question in topic.questions}
    assert [question for question, _ in HELD_OUT if essence(question) in known] == []


@pytest.mark.timeout(300)
def test_most_answers_are_on_topic() -> None:
    answers = [(question, write(prompt(question)), words) for question, words in HELD_OUT]
    missed = [(question, answer) for question, answer, words in answers if not any(word in answer for word in words)]
    assert len(missed) <= (1 - ENOUGH) * len(HELD_OUT), missed


DIALOGUE = (
    ("How do I add a worker?", "WORKERS=2"),
    ("How do I add a gateway?", "GATEWAYS=2"),
    ("How do I stream?", "WebSocket"),
    ("How do I stop it?", "Ctrl-C"),
    ("How do I run the tests?", "make test"),
    ("What happens if a worker dies?", "Nothing is lost"),
    ("Is it free?", "MIT"),
    ("Tell me a joke", "token cross"),
    ("What does Redis do?", "broker"),
    ("Do I need a GPU?", "No GPU"),
    ("How do I use my own swarm?", "deploy.swarm"),
    ("Thanks", "welcome"),
)


def test_a_dialogue_of_many_turns() -> None:
    text = f"{SYSTEMS[0]}{STOP}{GREETING}{STOP}"
    for question, expected in DIALOGUE:
        text += f"Human: {question}{STOP}Assistant:"
        answer = write(text)
        assert expected in answer
        assert answer.endswith(STOP)
        text += answer


@pytest.mark.timeout(300)
def test_every_answer_ends() -> None:
    endless = [topic.name for topic in topics() if not write(prompt(topic.questions[0] + "?")).endswith(STOP)]
    assert endless == []


def test_any_beginning_is_gone_on_with_readably() -> None:
    for beginning in ("A cat sat on", "Once upon a time,", 'A cat in French is "'):
        answer = write(beginning)
        assert answer.isascii()
        assert len(answer.split()) >= 3


def test_size_and_files() -> None:
    model, _ = loaded()
    assert 2e6 <= sum(weight.numel() for weight in model.parameters()) <= 8e6
    assert model.config.num_hidden_layers >= 4
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 10e6
    assert [path.name for path in MODEL.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")] == []


SCRIPTS = (
    "Hello",
    "Привет",
    "你好",
    "こんにちは",
    "안녕",
    "مرحبا",
    "שלום",
    "नमस्ते",
    "สวัสดี",
    "Γειά",
    "🙂👩‍👩‍👧‍👦",
    "a\n\tb  c",
)


@pytest.mark.parametrize("text", SCRIPTS)
def test_any_text_comes_back_from_its_ids(text: str) -> None:
    _, tokenizer = loaded()
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert tokenizer(text)["input_ids"] == [tokenizer.bos_token_id, *ids]


def test_the_stop_string_is_one_token_wherever_it_stands() -> None:
    _, tokenizer = loaded()
    (stop,) = tokenizer.encode(STOP, add_special_tokens=False)
    for before, after in itertools.product(("end.", "end", " "), ("Human", "?", "")):
        assert stop in tokenizer.encode(before + STOP + after, add_special_tokens=False)
