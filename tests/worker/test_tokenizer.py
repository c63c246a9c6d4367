"""The tokenizer adapter, over a byte-level and a SentencePiece-like vocabulary."""

from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, processors
from transformers import GenerationConfig

from tests.tiny_model import make_tiny_model
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
