"""What a job asks for, in ids and numbers: its prompt, and how long its answer may get."""

import dataclasses

from shared.errors import Code, CorollaError
from shared.messages import JobFailed, JobRequest
from shared.records import SessionSnapshot
from worker.backend import Tokenizer


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
        overflow = _overflow(len(committed), len(before) + wanted - 1, capacity)
        if not (request.partial and room):
            raise CorollaError(overflow.code, overflow.message)
    held = session.held if session and not prompt else 0
    return Plan(before, len(prompt), held, min(wanted, room), overflow)


def encode_prompt(prompt: str | tuple[int, ...] | None, fresh: bool, tokenizer: Tokenizer) -> list[int]:
    """Ids of a prompt; none continues a text, or begins one with BOS. Raises CorollaError(INVALID)."""
    if isinstance(prompt, str):
        ids = tokenizer.encode(prompt, fresh)
    elif prompt is not None:
        ids = list(prompt)
    else:
        ids = [tokenizer.bos_id] if fresh and tokenizer.bos_id is not None else []
    if fresh and not ids:
        raise CorollaError(Code.INVALID, "This model cannot start from nothing: it needs `inputs`")
    return ids


def _wanted(request: JobRequest, before: int, room: int) -> int:
    """Tokens that the request asks for. Without a limit it takes what fits; a partial answer wants more than that."""
    if request.max_new_tokens is not None:
        return request.max_new_tokens
    if request.max_length is not None:
        return request.max_length - before
    return room if room and not request.partial else room + 1


def _overflow(committed: int, needed: int, capacity: int) -> JobFailed:
    """The words are Petals' own; clients look for them. The session's last id was not fed yet."""
    prefix = max(committed - 1, 0)
    text = f"prefix {prefix} + current {needed - prefix} exceeds pre-allocated maximum {capacity}"
    return JobFailed(Code.TOO_LONG, f"Maximum length exceeded: {text}")
