"""What a gateway does with jobs, and what an operator sees in the broker, while workers run as processes."""

import asyncio
from typing import Any

from shared.broker import Broker
from shared.keys import Timing
from shared.messages import Ending, FinishReason, JobFinished, JobRequest, Token
from shared.records import Bounds, Submission
from shared.sampling import SamplingParams
from tests.valkey import Valkey
from worker.oracle_backend import text

MODEL = "corolla/oracle"
CATALOG = f"""
[[families]]
name = "Oracle"
[[families.models]]
repository = "{MODEL}"
name = "Oracle"
backend = "oracle"
step_ms = """
# For what waits for the end of a lease. Elsewhere it is so long that none comes to its end: not even where a worker has
# nothing to run on for seconds.
SHORT_LEASE_MS = 1000
TIMING = Timing(lease_ms=60_000)
READY = {f"{{p}}:ready:{MODEL}:{lane}" for lane in ("resumed", "interactive", "batch")}


async def submit(broker: Broker, job: str, seed: int, count: int, session: str | None = None, **more: Any) -> None:
    """A new job, which answers with that many of the seed's tokens."""
    request: dict[str, Any] = {"prompt": "hi", "max_new_tokens": count} | more
    submission = Submission(job, JobRequest(MODEL, SamplingParams(seed=seed), **request), "g", 30_000, session=session)
    assert await broker.submit(submission, Bounds()) == "accepted"


async def log(broker: Broker, job: str) -> tuple[list[Token], Ending | None]:
    """Tokens, and the ending where there is one."""
    attached = await broker.attach(job, "g", 0)
    assert attached is not None
    tokens = [token for entry in attached.entries for token in entry.tokens]
    endings = [entry.ending for entry in attached.entries if entry.ending]
    assert attached.last == len(tokens) + len(endings)
    return tokens, endings[0] if endings else None


async def has(broker: Broker, job: str, count: int) -> None:
    """Return when the job has so many tokens."""
    async with asyncio.timeout(60):
        while len((await log(broker, job))[0]) < count:
            await asyncio.sleep(0.01)


async def result(broker: Broker, job: str) -> tuple[str, Ending]:
    """Text and ending of a job, once it has ended."""
    async with asyncio.timeout(60):
        while (found := await log(broker, job))[1] is None:
            await asyncio.sleep(0.02)
    tokens, ending = found
    assert ending is not None
    return "".join(token.text for token in tokens), ending


def length(prompt: int, made: int, others: int = 0) -> JobFinished:
    """The end of a job at its limit, and of its further choices."""
    return JobFinished(FinishReason.LENGTH, prompt, made, (FinishReason.LENGTH,) * others)


def whole(seed: int, count: int) -> tuple[str, Ending]:
    """The result of such a job."""
    return text(seed, 0, count), length(2, count)


def owner(valkey: Valkey, job: str) -> str:
    """The worker that holds the job."""
    name = valkey.client.hget(f"{{p}}:job:{job}", "owner")
    assert isinstance(name, bytes)
    return name.decode()


def stalls(valkey: Valkey, job: str) -> int:
    """How often it was claimed in vain."""
    return int(valkey.client.hget(f"{{p}}:job:{job}", "stalls") or 0)


def leftovers(valkey: Valkey) -> set[str]:
    """What is in the broker beside finished jobs; entries that are pending."""
    client = valkey.client
    names = {str(name, "utf-8") for name in client.scan_iter()}
    done = {name for name in names if ":job:" in name and client.hget(name, "state") == b"done"}
    logs = {name.replace(":job:", ":log:") for name in done}
    pending = {f"{name} pending" for name in READY & names if client.xpending(name, "workers")["pending"]}
    return (names - done - logs - READY - {"{p}:pace", "{p}:reaped"}) | pending
