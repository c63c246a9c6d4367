"""The plain loop: a thread for each user, which calls generate for every single token, as chat.petals.dev does.

After each token it decodes that behind a token of its own making, because a SentencePiece decoder would drop the space
before the first one.
"""

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import transformers

import worker.petals_compat  # noqa: F401  before petals, which cannot be imported without it

# isort: split
from petals import AutoDistributedModelForCausalLM

from tests.bench.sides import NATIVE, PLAIN, Ids

MARK = "^"
NO_ID = -1


class PlainWriter:
    """A Writer over a Petals model and its tokenizer."""

    def __init__(self, model: Any, tokenizer: transformers.PreTrainedTokenizerBase) -> None:
        transformers.logging.set_verbosity_error()  # a warning for every call would cost it time
        self._model = model
        self._tokenizer = tokenizer

    def write(self, name: str, prompts: Sequence[str], tokens: int) -> list[Ids]:
        """PLAIN: a call for each token; NATIVE: one call for each prompt."""
        answer = {PLAIN: self._loop, NATIVE: self._generate}[name]
        with ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(functools.partial(answer, tokens=tokens), prompts))

    def stop(self) -> None:
        """Leave the swarm."""
        manager = self._model.transformer.h.sequence_manager
        manager.shutdown()
        manager.dht.shutdown()

    def _encode(self, prompt: str) -> torch.Tensor:
        ids: torch.Tensor = self._tokenizer(prompt, return_tensors="pt")["input_ids"]
        return ids

    def _loop(self, prompt: str, tokens: int) -> Ids:
        ids: list[int] = []
        inputs: torch.Tensor | None = self._encode(prompt)
        assert inputs is not None
        given = inputs.shape[1]
        with self._model.inference_session(max_length=given + tokens) as session:
            for _ in range(tokens):
                output = self._model.generate(inputs=inputs, session=session, do_sample=False, max_new_tokens=1)
                new = output[0, given:].tolist()
                self._decode(new)
                ids += new
                inputs, given = None, 0  # the session knows what was before
        return tuple(ids)

    def _decode(self, ids: list[int]) -> str:
        mark = self._tokenizer(MARK)["input_ids"][0]
        text: str = self._tokenizer.decode([mark, *ids])
        return text.lstrip().removeprefix(MARK)

    def _generate(self, prompt: str, tokens: int) -> Ids:
        inputs = self._encode(prompt)
        never = {"eos_token_id": NO_ID, "pad_token_id": NO_ID}  # so that all answers get their full length
        output = self._model.generate(inputs, do_sample=False, max_new_tokens=tokens, **never)
        return tuple(output[0, inputs.shape[1] :].tolist())


def join_swarm(folder: Path, peers: tuple[str, ...], dht_prefix: str, dtype: str) -> PlainWriter:
    """A writer with a Petals client of its own."""
    model = AutoDistributedModelForCausalLM.from_pretrained(
        str(folder), initial_peers=list(peers), dht_prefix=dht_prefix, torch_dtype=getattr(torch, dtype)
    )
    return PlainWriter(model, transformers.AutoTokenizer.from_pretrained(str(folder)))
