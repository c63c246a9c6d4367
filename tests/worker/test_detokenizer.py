"""Text comes out whole, in pieces that join to the text, whatever the tokenizer."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.alphabets import TEXTS, byte_level, sentence_piece
from worker.detokenizer import BROKEN, Detokenizer
from worker.oracle_backend import OracleTokenizer
from worker.tokenizer import FastTokenizer

BOTH = pytest.mark.parametrize("tokenizer", [byte_level(), sentence_piece()], ids=["byte level", "sentence piece"])


def deltas(tokenizer: FastTokenizer | OracleTokenizer, before: Sequence[int], ids: Sequence[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer.decode, before)
    return [detokenizer.push(id) for id in ids]


@BOTH
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_in_any_script_comes_out_as_it_is(tokenizer: FastTokenizer, text: str) -> None:
    # given the ids of a text, after a prompt that ends with any of its words
    ids = tokenizer.encode(" " + text, False)
    for cut in range(len(ids)):
        before = tokenizer.encode("hello", True) + ids[:cut]
        if not tokenizer.decode(before).endswith(BROKEN):
            # then the rest comes out complete, no piece with half a character
            pieces = deltas(tokenizer, before, ids[cut:])
            assert tokenizer.decode(before) + "".join(pieces) == "hello " + text
            assert BROKEN not in "".join(pieces)


@BOTH
def test_a_space_before_the_first_word_stays(tokenizer: FastTokenizer) -> None:
    ids = tokenizer.encode(" hello world", False)
    assert "".join(deltas(tokenizer, tokenizer.encode("hello", True), ids)) == " hello world"


def test_half_a_character_is_held_back() -> None:
    tokenizer = byte_level()
    check_mark = tokenizer.encode("✔", False)
    assert len(check_mark) == 3
    detokenizer = Detokenizer(tokenizer.decode, tokenizer.encode("hi", True))
    assert [(detokenizer.push(id), detokenizer.held) for id in check_mark] == [("", 1), ("", 2), ("✔", 0)]


def test_text_that_was_held_comes_with_the_next_ids() -> None:
    tokenizer = byte_level()
    *half, last = tokenizer.encode("hi✔", False)
    detokenizer = Detokenizer(tokenizer.decode, half, held=2)
    assert detokenizer.held == 2
    assert detokenizer.push(last) == "✔"


@given(st.lists(st.integers(0, 299), max_size=60), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_any_byte_level_ids_give_all_their_whole_characters(ids: list[int], before: int) -> None:
    tokenizer = byte_level()
    context = tokenizer.encode("hello ✔ Привет"[: 5 + 4 * before], True)
    detokenizer = Detokenizer(tokenizer.decode, context)
    given_out = "".join(detokenizer.push(id) for id in ids)
    # all but what is still held; what is held is short
    shown = ids[: len(ids) - detokenizer.held]
    assert given_out == (tokenizer.decode(context + shown).removeprefix(tokenizer.decode(context))).replace(BROKEN, "")
    assert detokenizer.held <= 9


@given(st.lists(st.integers(0, 299), max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_sentence_piece_ids_give_at_least_what_a_whole_decode_gives(ids: list[int]) -> None:
    # Its decoder breaks whole neighbours of broken bytes; token by token some of those are saved.
    tokenizer = sentence_piece()
    context = tokenizer.encode("hello", True)
    ids = [*ids, *tokenizer.encode("hi", False)]
    pieces = deltas(tokenizer, context, ids)
    whole = tokenizer.decode([*context, *ids]).removeprefix("hello")
    rest = iter("".join(pieces))
    assert all(character in rest for character in whole.replace(BROKEN, ""))


def test_broken_bytes_are_given_up_after_a_while() -> None:
    # given a model that writes nothing but first bytes of characters
    tokenizer = OracleTokenizer()
    detokenizer = Detokenizer(tokenizer.decode, tokenizer.encode("hi", True))
    pieces = [detokenizer.push(id) for id in [ord("a"), *itertools.repeat(0xE4, 100)]]
    # then the text before them comes, and little is kept
    assert "".join(pieces) == "a"
    assert detokenizer.held < 10
    assert "".join(detokenizer.push(id) for id in "中!".encode()) == "中!"
