"""What a job asks for, in ids and numbers: its prompt, and how long its answer may get."""

import dataclasses
from collections.abc import Iterable

import msgspec

from shared.errors import Code, CorollaError, TooLong
from shared.messages import JobFailed, JobRequest
from shared.records import SessionSnapshot
from worker.backend import Tokenizer
from worker.templates import Template


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to answer a job.

    before: ids that stand before the answer: the session's, then the prompt's.
    prompt_tokens: how many of them are this job's.
    held: how many of the last have text that belongs to this answer.
    limit: most tokens of the answer. overflow: how the job ends at the limit, None where that is no failure.
    """

    before: list[int]
    prompt_tokens: int
    held: int
    limit: int
    overflow: JobFailed | None

    @property
    def positions(self) -> int:
        """Places in the attention cache that the answer needs: its last token is never fed."""
        return len(self.before) + self.limit - 1


def make_plan(request: JobRequest, session: SessionSnapshot | None, capacity: int, tokenizer: Tokenizer) -> Plan:
    """Plan the answer, in a cache of `capacity` positions.

    Raises CorollaError: INVALID, and TOO_LONG where the answer does not fit and only a whole one is wanted.
    """
    sampling = request.sampling
    _check_ids("stop_token_ids", sampling.stop_token_ids, tokenizer)
    _check_ids("logit_bias", sampling.logit_bias, tokenizer)
    committed = session.ids if session else []
    prompt = encode_prompt(request.prompt, not committed, tokenizer)
    before = committed + prompt
    if request.max_length is not None and request.max_length <= len(before):
        text = f"`max_length` is {request.max_length}, but session and prompt have {len(before)} tokens already"
        raise CorollaError(Code.INVALID, text)
    room = max(capacity - len(before) + 1, 0)
    wanted = _wanted(request, len(before), room)
    overflow = None
    if wanted > room:
        overflow = _overflow(len(committed), len(before), wanted, capacity)
        if not (request.partial and room):
            raise TooLong(overflow.message, overflow.lengths)
    held = session.held if session and not prompt else 0
    return Plan(before, len(prompt), held, min(wanted, room), overflow)


def write_prompt(request: JobRequest, template: Template, tokenizer: Tokenizer) -> JobRequest:
    """The request with its dialogue, where it has one, as a prompt, which its template says when to stop after.

    Raises CorollaError(INVALID).
    """
    if not request.messages:
        return request
    text = template.write(request.messages)
    ids = tokenizer.encode_marked(text) if template.marked else tokenizer.encode(text, True)
    return msgspec.structs.replace(request, messages=(), prompt=tuple(ids), stop=(*request.stop, *template.stops))


def encode_prompt(prompt: str | tuple[int, ...] | None, fresh: bool, tokenizer: Tokenizer) -> list[int]:
    """Ids of a prompt; none continues a text, or begins one with BOS. Raises CorollaError(INVALID)."""
    if isinstance(prompt, tuple):
        ids = list(prompt)
        _check_ids("prompt", ids, tokenizer)
    elif prompt is not None:
        ids = tokenizer.encode(prompt, fresh)
    else:
        ids = [tokenizer.bos_id] if fresh and tokenizer.bos_id is not None else []
    if fresh and not ids:
        raise CorollaError(Code.INVALID, "This model cannot start from nothing: it needs a prompt")
    return ids


def _wanted(request: JobRequest, before: int, room: int) -> int:
    """Tokens that the request asks for. Without a limit it takes what fits; a partial answer wants more than that."""
    if request.max_new_tokens is not None:
        return min(request.max_new_tokens, max(room, 1)) if request.shrink else request.max_new_tokens
    if request.max_length is not None:
        return request.max_length - before
    return room if room and not request.partial else room + 1


def _overflow(committed: int, before: int, wanted: int, capacity: int) -> JobFailed:
    """The words are Petals' own; clients look for them. The session's last id was not fed yet."""
    prefix, needed = max(committed - 1, 0), before + wanted - 1
    text = f"prefix {prefix} + current {needed - prefix} exceeds pre-allocated maximum {capacity}"
    return JobFailed(Code.TOO_LONG, f"Maximum length exceeded: {text}", (before, wanted, capacity))


def _check_ids(field: str, ids: Iterable[int], tokenizer: Tokenizer) -> None:
    """Raise CorollaError(INVALID) for ids that the model does not have."""
    for id in ids:
        if not 0 <= id < tokenizer.size:
            text = f"`{field}`: {id} is no token id of this model, which has 0 to {tokenizer.size - 1}"
            raise CorollaError(Code.INVALID, text)
