"""What the endpoints of the OpenAI API share: whose request it is, which jobs it becomes, and how it is refused."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response

from gateway.bodies import BodyRefused
from gateway.callers import caller_of
from gateway.errors import failure_answer
from gateway.gateway import Gateway, new_id
from gateway.openai_prompts import Limits
from gateway.openai_types import MAX_PROMPTS
from gateway.openai_words import failure_for, failure_of, no_worker
from gateway.patience import BRIEF_S, patiently
from shared.errors import Code, CorollaError
from shared.messages import Ending, FinishReason, JobFinished
from shared.records import Position

MAX_USER_CHARS = 64


async def require_worker(gateway: Gateway, model: str) -> None:
    """Return where a live worker serves the model of that key. Raises CorollaError(SWARM)."""
    live = await patiently(lambda: gateway.broker.live_workers([model]), BRIEF_S)
    if not live[model]:
        raise no_worker(model)


def limits_of(gateway: Gateway) -> Limits:
    """What it allows. More prompts than may be asked for in a minute could never be let in."""
    settings = gateway.settings
    prompts = min(MAX_PROMPTS, settings.requests_per_min or MAX_PROMPTS)
    return Limits(gateway.catalog, settings.max_prompt_chars, prompts)


def user_of(user: str | None) -> str:
    """The user whom a request names, for the queue."""
    return ascii(user or "")[1:-1][:MAX_USER_CHARS]


def job_ids(first: str, count: int) -> list[str]:
    """The ids of a request's jobs, which all follow from the first one: that is what the client knows it by."""
    others = (hashlib.blake2b(f"{first} {number}".encode(), digest_size=16) for number in range(1, count))
    return [first, *(other.hexdigest() for other in others)]


async def choose_id(gateway: Gateway, request: Request, body: bytes, count: int) -> str:
    """The id of the first of a request's `count` jobs: a new one, or what follows from its Idempotency-Key.

    The same key with the same body gives the same jobs, as long as they are known; but not where one of them broke off:
    a client that left before the end would be told half an answer, and one that tries again, as it was told to, the
    same failure.
    """
    key = request.headers.get("idempotency-key")
    if not key:
        return new_id()
    whose = caller_of(request).account or request.headers.get("authorization", "")
    digest = hashlib.blake2b(body, digest_size=32)
    for number in itertools.count():
        parts = (digest.hexdigest(), request.url.path, whose, key, str(number))
        job = hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
        if not await _broke_off(gateway, job_ids(job, count)):
            return job
    raise AssertionError


async def endings(gateway: Gateway, positions: Mapping[str, Position]) -> list[Ending]:
    """How the jobs at these positions ended; nothing of those that have not, or are gone."""
    broker, name = gateway.broker, gateway.hub.gateway
    done = {job: position.last for job, position in positions.items() if position.state == "done"}
    logs = [await broker.attach(job, name, last - 1) for job, last in done.items()]
    return [entry.ending for log in logs if log for entry in log.entries if entry.ending]


async def _broke_off(gateway: Gateway, jobs: Sequence[str]) -> bool:
    """Whether one of them was cancelled, or failed in a way that another attempt may not."""
    positions = await patiently(lambda: gateway.broker.positions(gateway.hub.gateway, jobs), BRIEF_S)
    return any(
        ending.reason is FinishReason.CANCELLED if isinstance(ending, JobFinished) else ending.code is not Code.POISON
        for ending in await patiently(lambda: endings(gateway, positions), BRIEF_S)
    )


def refusal(error: CorollaError) -> Response:
    """The answer for an error before anything was sent."""
    if isinstance(error, BodyRefused):
        answer = failure_answer(failure_for(error.status, error.message))
        answer.headers["connection"] = "close"
        return answer
    return failure_answer(failure_of(error))
