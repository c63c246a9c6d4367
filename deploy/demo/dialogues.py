"""The training text: topics with questions and answers, expanded into dialogues in the catalogue's format."""

import dataclasses
import random
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
STOP = "###"
GREETING = "Assistant: Hi! How can I help you?"
SYSTEMS = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
    "You are a helpful assistant.",
    "A dialogue about Corolla.",
    "Below is a conversation between a human and an assistant.",
)
OPENERS = ("please tell me, ", "hey, ", "so, ", "ok, ", "hi, ", "excuse me, ", "quick question: ", "tell me: ", "and ")
CLOSERS = (" please", ", please", " exactly", " again", " then", " here", " now")
SMALL_WORDS = "a an the do does can i we you to is are it of for my on in please would should could"
NAMES = "Corolla Petals Redis Valkey Python WebSocket OpenAI Llama Docker API HTTP GPU CPU URL AI JSON MIT SDK RAM"

_CHOICE = re.compile(r"\(([^()]*)\)")


@dataclasses.dataclass(frozen=True)
class Topic:
    """One thing that the model knows. questions: all phrasings, in lower case, without a question mark."""

    name: str
    answers: tuple[str, ...]
    questions: tuple[str, ...]


def expand(pattern: str) -> Iterator[str]:
    """Every string that a pattern stands for: (a|b) is a choice, (a|) an option."""
    match = _CHOICE.search(pattern)
    if match is None:
        yield " ".join(pattern.split())
        return
    for choice in match.group(1).split("|"):
        yield from expand(pattern[: match.start()] + choice + pattern[match.end() :])


def topics() -> list[Topic]:
    """The corpus, in the order of its files."""
    found = []
    for path in sorted(CORPUS.glob("*.toml")):
        for raw in tomllib.loads(path.read_text())["topics"]:
            phrasings = dict.fromkeys(text.lower() for pattern in raw["questions"] for text in expand(pattern))
            found.append(Topic(raw["name"], tuple(raw["answers"]), tuple(phrasings)))
    return found


def plain_texts() -> list[str]:
    """Lines that are no dialogue, so that the model goes on readably from any beginning."""
    return (CORPUS / "plain.txt").read_text().splitlines()


def ask(question: str, dice: random.Random) -> str:
    """A question as somebody might type it: capitals, marks, openers, small words left out, a slip of the finger."""
    words, small = question.split(), SMALL_WORDS.split()
    names = {name.lower(): name for name in NAMES.split()}
    if dice.random() < 0.2:
        kept = [word for word in words if word not in small or dice.random() < 0.5]
        words = kept or words
    if dice.random() < 0.6:
        words = [names.get(word, word) for word in words]
    text = " ".join(words)
    if dice.random() < 0.15:
        text = dice.choice(OPENERS) + text
    if dice.random() < 0.1:
        text += dice.choice(CLOSERS)
    if dice.random() < 0.1 and len(text) > 6:
        place = dice.randrange(1, len(text) - 2)
        swapped = text[place + 1] + text[place]
        text = text[:place] + dice.choice((swapped, text[place], text[place] * 2 + text[place + 1])) + text[place + 2 :]
    if dice.random() < 0.7:
        text = re.sub(r"\bi\b", "I", text[0].upper() + text[1:])
    return text + dice.choice(("?", "?", "?", "", "", ".", "!"))


def dialogue(known: list[Topic], turns: Sequence[int], dice: random.Random) -> list[tuple[str, bool]]:
    """A dialogue of one of these numbers of turns, as pieces of text; True marks what the model is to write."""
    opening = "".join(f"{system}{STOP}" for system in dice.choices((*SYSTEMS, None), (4, 1, 1, 1, 5)) if system)
    if dice.random() < 0.6:
        opening += f"{GREETING}{STOP}"
    if not opening and dice.random() < 0.5:
        opening = STOP
    pieces = []
    for _ in range(dice.choice(turns)):
        topic = dice.choice(known)
        question = ask(dice.choice(topic.questions), dice)
        pieces.append((f"{opening}Human: {question}{STOP}Assistant:", False))
        pieces.append((f" {dice.choice(topic.answers)}{STOP}", True))
        opening = ""
    return pieces
