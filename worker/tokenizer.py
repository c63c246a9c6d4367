"""A model's own tokenizer, as the engine uses it."""

from collections.abc import Sequence

import tokenizers
import transformers

_LEAD = "\n"


class FastTokenizer:
    """Text to ids and back, by the rules of a checkpoint's fast tokenizer. May be used by several threads at once."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, bos_id: int | None, eos_ids: frozenset[int]) -> None:
        self.bos_id = bos_id
        self.eos_ids = eos_ids
        self._tokenizer = tokenizer
        # SentencePiece tokenizers invent a space before every text, which is wrong in the middle of a dialogue.
        # There a text is encoded behind a line break, whose tokens are then dropped.
        invents_space = any(token.startswith("▁") for token in tokenizer.encode("a", add_special_tokens=False).tokens)
        self._lead: list[int] = tokenizer.encode(_LEAD, add_special_tokens=False).ids if invents_space else []

    def encode(self, text: str, fresh: bool) -> list[int]:
        """Ids of `text`. fresh: at the start of a session, with the special tokens that the model expects there."""
        if not fresh and self._lead:
            ids: list[int] = self._tokenizer.encode(_LEAD + text, add_special_tokens=False).ids
            if ids[: len(self._lead)] == self._lead:
                return ids[len(self._lead) :]
        return list(self._tokenizer.encode(text, add_special_tokens=fresh).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens kept, spaces untouched; U+FFFD stands for bytes that are no whole character."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


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
    return FastTokenizer(tokenizer.backend_tokenizer, bos, frozenset(ends))
