"""What a job wants that only reads its prompt: the tokens that it consists of, how probable they are, or its embedding.

Pure.
"""

import math
import struct
from collections.abc import Iterator, Sequence

from shared.errors import Code, CorollaError, TooLong
from shared.messages import JobRequest, Token
from shared.sampling import SamplingParams
from worker.backend import Choice, Draw, Tokenizer
from worker.detokenizer import Detokenizer
from worker.models import Served
from worker.prompts import encode_prompt, write_prompt


def read(request: JobRequest, served: Served) -> list[int]:
    """The prompt's ids, none for an empty one. Raises CorollaError: INVALID, and TOO_LONG for the model."""
    tokenizer = served.backend.tokenizer
    written = write_prompt(request, served.template, tokenizer)
    ids = encode_prompt(written.prompt, True, tokenizer) if written.prompt else []
    if request.embed and not ids:
        raise CorollaError(Code.INVALID, "There is nothing in `input`")
    if (request.embed or request.sampling.logprobs is not None) and len(ids) > served.max_length:
        text = f"The text has {len(ids)} tokens, but the model takes at most {served.max_length}"
        raise TooLong(text, (len(ids), 0, served.max_length))
    return ids


def spell(ids: Sequence[int], tokenizer: Tokenizer, show_special: bool) -> Iterator[Token]:
    """The tokens with their text; what is no whole character at the end has none."""
    detokenizer = Detokenizer(tokenizer, (), show_special=show_special)
    for id in ids:
        yield Token(id, detokenizer.push(id))


def asked_about(ids: Sequence[int], logprobs: int) -> list[Draw]:
    """What to ask of a model that is fed these ids, all but the last: how probable each is after those before it."""
    sampling = SamplingParams(logprobs=logprobs)
    return [Draw(sampling, (), 0, known=id) for id in ids[1:]]


def weigh(tokens: Sequence[Token], found: Sequence[Choice], tokenizer: Tokenizer) -> Iterator[Token]:
    """The tokens of a prompt, with what a model said of all but the first."""
    yield from tokens[:1]
    for token, choice in zip(tokens[1:], found, strict=True):
        yield Token(token.id, token.text, logprobs=choice.logprobs(tokenizer))


def pack(total: Sequence[float]) -> bytes:
    """The embedding: the mean of some states, of which this is the sum, at length 1 (L2), as little-endian float32."""
    length = math.hypot(*total) or 1.0
    return struct.pack(f"<{len(total)}f", *(value / length for value in total))
