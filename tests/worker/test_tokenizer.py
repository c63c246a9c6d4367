"""The tokenizer adapter, over a byte-level and a SentencePiece-like vocabulary."""

from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, processors
from transformers import GenerationConfig

from tests.tiny_model import make_tiny_model
from tests.worker import alphabets
from worker.tokenizer import FastTokenizer, load_tokenizer


def _sentencepiece() -> FastTokenizer:
    """As Llama 1 and 2 have it: a space before every text, bytes where a character is unknown."""
    words = ["<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "h", "i", "▁h", "hi", "▁hi"]
    merges = [("▁", "h"), ("h", "i"), ("▁h", "i"), ("▁", "hi")]
    bpe = models.BPE({word: i for i, word in enumerate(words)}, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return FastTokenizer(tokenizer, 0, frozenset([1]))


def _tokens(tokenizer: FastTokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.decode([i]) for i in ids]


def test_a_continuation_gets_no_bos_and_no_invented_space() -> None:
    tokenizer = _sentencepiece()
    assert _tokens(tokenizer, tokenizer.encode("hi", fresh=True)) == ["<s>", " hi"]
    assert _tokens(tokenizer, tokenizer.encode("hi", fresh=False)) == ["hi"]
    assert _tokens(tokenizer, tokenizer.encode(" hi", fresh=False)) == [" hi"]
    assert _tokens(tokenizer, tokenizer.encode("\nhi", fresh=False)) == ["\n", "hi"]


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FastTokenizer]:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tiny_model(folder)
    return folder, load_tokenizer(str(folder), None, GenerationConfig.from_pretrained(folder))


@pytest.mark.parametrize("text", ["word1 and more", "  spaces  stay . , !", "naïve ☃ 🙂\n\n", "### </s>?", ""])
def test_texts_come_back_as_they_were(byte_level: tuple[Path, FastTokenizer], text: str) -> None:
    _, tokenizer = byte_level
    assert tokenizer.decode(tokenizer.encode(text, fresh=False)) == text
    assert tokenizer.decode(tokenizer.encode(text, fresh=True)) == "<s>" + text


def test_half_a_character_is_the_replacement_character(byte_level: tuple[Path, FastTokenizer]) -> None:
    _, tokenizer = byte_level
    ids = tokenizer.encode("☃", fresh=False)
    assert (len(ids), tokenizer.decode(ids[:2])) == (3, "\ufffd")


def test_ends_come_from_the_models_generation_settings(byte_level: tuple[Path, FastTokenizer]) -> None:
    folder, tokenizer = byte_level
    assert tokenizer.bos_id == 0
    assert tokenizer.eos_ids == {1}
    assert load_tokenizer(str(folder), None, GenerationConfig(eos_token_id=[1, 7])).eos_ids == {1, 7}
    assert load_tokenizer(str(folder), None, GenerationConfig()).eos_ids == {1}


def test_special_tokens_are_those_marked_and_the_ends(byte_level: tuple[Path, FastTokenizer]) -> None:
    folder, tokenizer = byte_level
    assert tokenizer.special_ids == {0, 1}
    assert load_tokenizer(str(folder), None, GenerationConfig(eos_token_id=[1, 7])).special_ids == {0, 1, 7}
    assert alphabets.unigram().special_ids == {0, 1, 2}
    assert _sentencepiece().special_ids == {0, 1}


@pytest.mark.parametrize("text", alphabets.TEXTS)
def test_pieces_are_the_bytes_of_a_text(byte_level: tuple[Path, FastTokenizer], text: str) -> None:
    for tokenizer in (byte_level[1], alphabets.byte_level(), alphabets.sentence_piece()):
        assert b"".join(tokenizer.piece(id) for id in tokenizer.encode(text, False)) == text.encode()


def test_every_byte_has_a_piece() -> None:
    every = {bytes([byte]) for byte in range(256)}
    assert {alphabets.sentence_piece().piece(id) for id in alphabets.BYTES} == every
    assert {alphabets.byte_level().piece(id) for id in range(2, 258)} == every


def test_pieces_of_words_keep_their_spaces_and_special_tokens_their_names() -> None:
    tokenizer = _sentencepiece()
    pieces = [tokenizer.piece(id) for id in range(3 + 256 + 6)]
    assert pieces[:3] == [b"<s>", b"</s>", b"<unk>"]
    assert pieces[-6:] == [b" ", b"h", b"i", b" h", b"hi", b" hi"]
    words = alphabets.unigram()
    assert [words.piece(id) for id in words.encode("hello hello", True)][-1][-1:] == b"o"
    assert b"".join(words.piece(id) for id in words.encode("hello hello", True)) == b" hello hello"


def test_added_tokens_and_the_replacement_character_are_themselves() -> None:
    # given tokens that the model's own alphabet does not spell
    tokenizer = tokenizers.Tokenizer(models.BPE({"a": 0, "ï": 1, "¿": 2, "½": 3, "ï¿½": 4}, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(["\ufffd  é"])
    adapted = FastTokenizer(tokenizer, None, frozenset())
    assert [adapted.piece(id) for id in range(6)] == [
        b"a",
        b"\xef",
        b"\xbf",
        b"\xbd",
        "\ufffd".encode(),
        "\ufffd  é".encode(),
    ]
    # then an id beyond the vocabulary, as padded weights have it, is nothing
    assert adapted.piece(6) == b""
