"""A model's own tokenizer, as the engine uses it."""

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import tokenizers
import transformers

from worker.detokenizer import BROKEN

_LEAD = "\n"


class FastTokenizer:
    """Text to ids and back, by the rules of a checkpoint's fast tokenizer. May be used by several threads at once."""

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        bos_id: int | None,
        eos_ids: frozenset[int],
        chat_template: str | None = None,
        marks: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        self.size = int(tokenizer.get_vocab_size())
        self.chat_template = chat_template
        self.marks = marks
        self.bos_id = bos_id
        self.eos_ids = eos_ids
        marked = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self.special_ids = eos_ids | marked | (set() if bos_id is None else {bos_id})
        self._tokenizer = tokenizer
        # SentencePiece tokenizers invent a space before every text, which is wrong in the middle of a dialogue.
        # There a text is encoded behind a line break, whose tokens are then dropped.
        example = tokenizer.encode("a", add_special_tokens=False)
        invents_space = any(token.startswith("▁") for token in example.tokens)
        self._lead: list[int] = tokenizer.encode(_LEAD, add_special_tokens=False).ids if invents_space else []
        self._context: list[int] = example.ids
        self._pieces: dict[int, bytes] = {}  # those that were asked for, which takes a decode each

    def encode(self, text: str, fresh: bool) -> list[int]:
        """Ids of `text`. fresh: at the start of a session, with the special tokens that the model expects there."""
        if not fresh and self._lead:
            ids: list[int] = self._tokenizer.encode(_LEAD + text, add_special_tokens=False).ids
            if ids[: len(self._lead)] == self._lead:
                return ids[len(self._lead) :]
        return list(self._tokenizer.encode(text, add_special_tokens=fresh).ids)

    def encode_marked(self, text: str) -> list[int]:
        """Ids of a text that begins a session and names its special tokens itself."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens kept, spaces untouched; U+FFFD stands for bytes that are no whole character."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def piece(self, id: int) -> bytes:
        """The bytes that this token stands for in the middle of a text, perhaps a part of a character.

        Byte-level BPE writes a byte as a character of its own alphabet, SentencePiece as `<0xAB>`.
        """
        piece = self._pieces.get(id)
        if piece is None:
            piece = self._pieces[id] = self._spelled(id)
        return piece

    def _spelled(self, id: int) -> bytes:
        text = self.decode([*self._context, id])[len(self.decode(self._context)) :]
        if BROKEN in text:
            name = self._tokenizer.id_to_token(id)
            alphabet = _byte_alphabet()
            if name.startswith("<0x"):
                return bytes.fromhex(name[3:5])
            if alphabet.keys() >= set(name):
                return bytes(alphabet[character] for character in name)
        return text.encode()


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's characters for bytes: those that print are their own, the others follow U+00FF (GPT-2)."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + i): byte for i, byte in enumerate(others)}


def load_tokenizer(source: str, revision: str | None, generation: transformers.GenerationConfig) -> FastTokenizer:
    """The tokenizer of a folder or repository; `generation` (the model's own) knows its end-of-text tokens.

    Raises OSError where there is none, ValueError where it has no fast form.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer of {source} has no fast form")
    eos = generation.eos_token_id if generation.eos_token_id is not None else tokenizer.eos_token_id
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else generation.bos_token_id
    ends = eos if isinstance(eos, list) else [] if eos is None else [eos]
    own, marks = tokenizer.chat_template, tokenizer.special_tokens_map
    if isinstance(own, list):  # several by name, of which one is for dialogues without tools
        own = {each["name"]: each["template"] for each in own}.get("default")
    return FastTokenizer(tokenizer.backend_tokenizer, bos, frozenset(ends), own, marks)
