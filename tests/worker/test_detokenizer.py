"""Text comes out whole, in pieces that join to the text, whatever the tokenizer."""

import itertools
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.alphabets import BYTES, TEXTS, byte_level, sentence_piece, unigram
from worker.detokenizer import BROKEN, Detokenizer
from worker.tokenizer import FastTokenizer

BOS, EOS = 0, 1
ALL = pytest.mark.parametrize(
    "tokenizer", [byte_level(), sentence_piece(), unigram()], ids=["bytes", "pieces", "words"]
)
LOSSLESS = pytest.mark.parametrize("tokenizer", [byte_level(), sentence_piece()], ids=["bytes", "pieces"])
SHOW = pytest.mark.parametrize("show_special", [True, False], ids=["shown", "hidden"])


def joined(detokenizer: Detokenizer, ids: Sequence[int]) -> str:
    return "".join(detokenizer.push(id) for id in ids)


def visible(tokenizer: FastTokenizer, ids: Sequence[int], show_special: bool) -> list[int]:
    return [id for id in ids if show_special or id not in tokenizer.special_ids]


def decoded(tokenizer: FastTokenizer, before: Sequence[int], ids: Sequence[int], show_special: bool) -> str:
    """What `ids` add to the text of `before`, by the tokenizer's own decode, without signs for broken bytes."""
    start, added = visible(tokenizer, before, show_special), visible(tokenizer, ids, show_special)
    if tokenizer is sentence_piece():
        added = mended(added)
    return tokenizer.decode(start + added).replace(BROKEN, "").removeprefix(tokenizer.decode(start))


def mended(ids: Sequence[int]) -> list[int]:
    """Ids of sentence_piece() with U+FFFD for broken bytes: left alone, they would break whole characters as well."""
    meaningful = [id for id in ids if sentence_piece().piece(id)]
    rows = itertools.groupby(meaningful, key=lambda id: id in BYTES)
    return [id for are_bytes, row in rows for id in (mended_bytes(row) if are_bytes else row)]


def mended_bytes(ids: Iterable[int]) -> list[int]:
    text = bytes(BYTES.index(id) for id in ids).decode(errors="replace")
    return [BYTES[byte] for byte in text.encode()]


@ALL
@SHOW
@given(
    ids=st.lists(st.integers(0, 399) | st.integers(0, 257), max_size=40),
    before=st.sampled_from(["", "hello", "hello Привет мир"]),
    cut=st.integers(0, 40),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_ids_give_what_they_decode_to(
    tokenizer: FastTokenizer, show_special: bool, ids: list[int], before: str, cut: int
) -> None:
    # given any ids after a prompt, which may be BOS alone: words, special tokens, bytes, ids that mean nothing
    prompt = [BOS, *tokenizer.encode(before, False)]
    first = Detokenizer(tokenizer, prompt, 0, show_special)
    # when they come one by one, and a second detokenizer takes over in the middle
    texts = joined(first, ids[:cut])
    # then there is no more and no less than a decode of all of them gives, at any time
    assert texts == decoded(tokenizer, prompt, ids[:cut], show_special)
    second = Detokenizer(tokenizer, prompt + ids[:cut], first.held, show_special)
    assert second.held == first.held
    assert texts + joined(second, ids[cut:]) == decoded(tokenizer, prompt, ids, show_special)


@LOSSLESS
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_in_any_script_comes_out_as_it_is(tokenizer: FastTokenizer, text: str) -> None:
    # given the ids of a text, cut at any token
    before, ids = tokenizer.encode("hello", True), tokenizer.encode(" " + text, False)
    for cut in range(len(ids)):
        first = Detokenizer(tokenizer, before)
        texts = joined(first, ids[:cut])
        # then the rest comes out complete, no piece with half a character
        texts += joined(Detokenizer(tokenizer, before + ids[:cut], first.held), ids[cut:])
        assert texts == " " + text


@ALL
@SHOW
@pytest.mark.parametrize("before", ["", "hello"])
def test_a_text_in_any_script_is_what_it_decodes_to(tokenizer: FastTokenizer, show_special: bool, before: str) -> None:
    prompt = [BOS, *tokenizer.encode(before, False)]
    for text in TEXTS:
        # given a text between special tokens
        ids = [*tokenizer.encode(text, True), EOS]
        # then one by one it is as if it was decoded whole, here and where characters are bytes, too
        texts = joined(Detokenizer(tokenizer, prompt, 0, show_special), ids)
        whole, start = visible(tokenizer, prompt + ids, show_special), visible(tokenizer, prompt, show_special)
        assert texts == tokenizer.decode(whole).removeprefix(tokenizer.decode(start))


@LOSSLESS
@pytest.mark.parametrize("text", TEXTS)
def test_hidden_tokens_break_nothing(tokenizer: FastTokenizer, text: str) -> None:
    # given a text with a special token behind every token, between the bytes of characters too
    before, ids = tokenizer.encode("hello", True), tokenizer.encode(text, False)
    detokenizer = Detokenizer(tokenizer, before, show_special=False)
    assert joined(detokenizer, [id for pair in zip(ids, itertools.repeat(EOS), strict=False) for id in pair]) == text
    assert detokenizer.held == 0


@LOSSLESS
def test_a_shown_token_breaks_a_character(tokenizer: FastTokenizer) -> None:
    *half, last = tokenizer.encode("✔", False)
    assert joined(Detokenizer(tokenizer, [BOS]), [*half, EOS, last, EOS]) == "</s></s>"


@pytest.mark.parametrize("tokenizer", [sentence_piece(), unigram()], ids=["pieces", "words"])
def test_only_a_text_that_begins_has_no_invented_space(tokenizer: FastTokenizer) -> None:
    ids = tokenizer.encode("hello hello", True)
    assert joined(Detokenizer(tokenizer, [BOS], show_special=False), ids) == "hello hello"
    assert joined(Detokenizer(tokenizer, [*ids, BOS], show_special=False), ids) == " hello hello"
    assert joined(Detokenizer(tokenizer, [BOS], show_special=True), ids[ids[0] == BOS :]) == " hello hello"


def test_half_a_character_is_held_back() -> None:
    tokenizer = byte_level()
    check_mark = tokenizer.encode("✔", False)
    assert len(check_mark) == 3
    detokenizer = Detokenizer(tokenizer, tokenizer.encode("hi", True))
    assert [(detokenizer.push(id), detokenizer.held) for id in check_mark] == [("", 1), ("", 2), ("✔", 0)]


def test_a_token_gives_its_whole_characters_and_holds_the_rest() -> None:
    # given a token that ends one character and begins another
    tokenizer = byte_level()
    ids = tokenizer.encode("👨\u200d👩", False)
    assert [len(tokenizer.piece(id)) for id in ids] == [3, 7, 1]
    before = tokenizer.encode("hi", True)
    detokenizer = Detokenizer(tokenizer, before)
    assert [(detokenizer.push(id), detokenizer.held) for id in ids] == [("", 1), ("👨\u200d", 1), ("👩", 0)]
    # then another one that goes on behind it gives nothing twice
    assert joined(Detokenizer(tokenizer, before + ids[:2], held=1), ids[2:]) == "👩"


def test_what_was_held_belongs_to_the_next_ids_only_if_they_go_on() -> None:
    tokenizer = byte_level()
    *half, last = tokenizer.encode("hi✔", False)
    assert joined(Detokenizer(tokenizer, half, held=2), [last]) == "✔"
    assert joined(Detokenizer(tokenizer, half), [last]) == ""


def test_broken_bytes_hold_nothing_up() -> None:
    # given a model that writes nothing but first bytes of characters
    tokenizer = sentence_piece()
    detokenizer = Detokenizer(tokenizer, tokenizer.encode("hi", True))
    assert joined(detokenizer, [BYTES[byte] for byte in b"a" + b"\xe4" * 100]) == "a"
    # then the next character is whole
    assert detokenizer.held == 1
    assert joined(detokenizer, [BYTES[byte] for byte in "中!".encode()]) == "中!"
