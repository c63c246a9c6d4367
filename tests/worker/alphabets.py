"""Small real tokenizers, one of each family, made on the fly, and texts that are hard for them."""

import functools
import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from worker.tokenizer import FastTokenizer

TEXTS = (
    "The quick brown fox jumps over  the lazy dog.\n\tAnd then?",
    "Der Übermut tut selten gut, naïve café-Gäste",
    "Ανθρώπινο γένος και γλώσσα",
    "Привет, как дела?",
    "שלום עולם, מה שלומך",
    "مرحبا بالعالم كيف الحال",
    "नमस्ते दुनिया, आप कैसे हैं",
    "สวัสดีชาวโลก สบายดีไหม",
    "你好，世界。今天天气很好",
    "こんにちは世界、お元気ですか",
    "안녕하세요 세계, 잘 지내세요",
    "ሰላም ለዓለም",
    "👋🏽 hi 👨‍👩‍👧‍👦 🇺🇳 ✔️ ❤️‍🔥 end",
)
_SPECIAL = ["<s>", "</s>"]
BYTES = range(2, 258)  # sentence_piece()'s ids of single bytes
_CORPUS = ("the quick brown fox and the lazy dog, hello hello world. ###Human: hi###Assistant: ", "Привет мир ") * 3


@functools.cache
def byte_level() -> FastTokenizer:
    """Byte-level BPE, as GPT-2, BLOOM, Falcon and Llama 3 have it: an id is some bytes. 0 is BOS, 1 is EOS."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=_SPECIAL, show_progress=False
    )
    bpe.train_from_iterator([*_CORPUS, *TEXTS[-1:] * 3], trainer)
    return FastTokenizer(bpe, 0, frozenset({1}))


@functools.cache
def sentence_piece() -> FastTokenizer:
    """Pieces with `▁` for a space and single bytes for all other characters, as Llama 2 has it. 0 is BOS, 1 is EOS."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator(_CORPUS, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    pieces = sorted(trained.get_vocab(), key=lambda piece: trained.get_vocab()[piece])
    names = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocabulary = {name: id for id, name in enumerate(names)}
    merges = [tuple(piece_pair) for piece_pair in _merges(trained)]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens(_SPECIAL)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return FastTokenizer(tokenizer, 0, frozenset({1}))


@functools.cache
def unigram() -> FastTokenizer:
    """Words that begin with `▁`, one id for all unknown characters, as T5 and XLM have it. 0 is BOS, 1 is EOS."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = [*_SPECIAL, "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([*_CORPUS, *TEXTS], trainer)
    return FastTokenizer(tokenizer, 0, frozenset({1}))


def _merges(trained: Tokenizer) -> list[list[str]]:
    merges = json.loads(trained.to_str())["model"]["merges"]
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
