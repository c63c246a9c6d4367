"""Jobs that were given up, against a real server."""

from collections.abc import AsyncIterator

import pytest

from shared.broker import POISON, Broker
from shared.dead import DeadLetters
from shared.keys import Timing
from shared.messages import FinishReason, JobFinished, JobRequest, LogEntry, Token, decode_entry
from shared.records import Append, Appended, Bounds, Claim, DeadLetter, Registration, Submission
from shared.sampling import SamplingParams
from tests.valkey import Valkey

pytestmark = pytest.mark.anyio

MODEL = "corolla/oracle"
REQUEST = JobRequest(model=MODEL, sampling=SamplingParams(seed=7), prompt="a secret", max_new_tokens=3)
DONE = JobFinished(FinishReason.LENGTH, prompt_tokens=2, completion_tokens=3)
WHO = Registration("w1", (MODEL,), 4)
A, B, C = Token(10, "a"), Token(11, "b"), Token(12, "c")


@pytest.fixture
async def broker(valkey: Valkey) -> AsyncIterator[Broker]:
    async with Broker(valkey.url, Timing(stall_limit=1)) as broker:
        yield broker


async def submit(broker: Broker, name: str, session: str | None = None, priority: str = "interactive") -> None:
    job = Submission(name, REQUEST, "g1", 60_000, tenant="x", session=session, priority=priority)
    assert await broker.submit(job, Bounds()) == "accepted"


async def claim(broker: Broker) -> Claim:
    (claim,) = await broker.claim(WHO, 1, 0)
    return claim


async def give_up(broker: Broker, tokens: tuple[Token, ...] = ()) -> None:
    """Let the job in line kill its worker, after these tokens."""
    doomed = await claim(broker)
    if tokens:
        await broker.append([Append(doomed.job, doomed.epoch, 1, tokens)])
        await broker.leave("w1")
        await claim(broker)
    await broker.leave("w1")
    assert await broker.claim(WHO, 1, 0) == []


async def test_a_job_that_was_given_up_is_listed_without_its_prompt(broker: Broker, valkey: Valkey) -> None:
    await submit(broker, "j1", priority="batch")
    await give_up(broker, (A, B))
    with DeadLetters(valkey.url) as letters:
        (letter,) = letters.all()
    assert letter == DeadLetter("j1", letter.at_ms, MODEL, "batch", "x", 2, 2)
    assert 0 <= valkey.client.time()[0] + 1 - letter.at_ms / 1000 < 60
    assert "secret" not in repr(letter)
    assert 86_000_000 < valkey.client.pttl("{p}:job:j1") <= 86_400_000


async def test_requeued_it_goes_on_after_its_last_token(broker: Broker, valkey: Valkey) -> None:
    # given a job that was given up after two tokens, as its client was told
    await submit(broker, "j1")
    await give_up(broker, (A, B))
    told = await broker.attach("j1", "g1", 0)
    assert told is not None
    assert told.entries == (LogEntry(1, (A, B), None), decode_entry(3, b"", POISON))
    # when it is tried again
    with DeadLetters(valkey.url) as letters:
        assert letters.requeue("j1", 5_000)
        assert not letters.requeue("j1", 5_000)
        assert letters.all() == []
    again = await claim(broker)
    # then a worker goes on where it was, and its log is that of one answer
    assert (again.job, again.request, again.log) == ("j1", REQUEST, (A, B))
    assert 4_000 < again.remaining_ms <= 5_000
    assert await broker.append([Append("j1", again.epoch, 3, (C,), DONE)]) == [Appended("ok", 4, False)]
    read = await broker.attach("j1", "g1", 0)
    assert read is not None
    assert (read.state, read.last) == ("done", 4)
    assert read.entries == (LogEntry(1, (A, B), None), LogEntry(3, (C,), DONE))
    assert not valkey.client.hexists("{p}:job:j1", "request")
    assert valkey.client.exists("{p}:waiting", "{p}:due") == 0


async def test_no_bound_refuses_it_and_it_takes_its_turn(broker: Broker, valkey: Valkey) -> None:
    await submit(broker, "j1")
    await give_up(broker)
    await submit(broker, "j2")
    with DeadLetters(valkey.url) as letters:
        assert letters.requeue("j1", 5_000)
    assert valkey.client.hgetall("{p}:waiting") == {}
    assert [each.job for each in await broker.claim(WHO, 4, 0)] == ["j2", "j1"]


async def test_not_where_its_session_is_over(broker: Broker, valkey: Valkey) -> None:
    await broker.open_session("s1", MODEL, 64, 60_000, 9)
    await submit(broker, "j1", session="s1")
    await give_up(broker)
    await broker.close_session("s1")
    with DeadLetters(valkey.url) as letters:
        assert not letters.requeue("j1", 5_000)
        assert [letter.job for letter in letters.all()] == ["j1"]


async def test_dropped_it_is_forgotten(broker: Broker, valkey: Valkey) -> None:
    await submit(broker, "j1")
    await give_up(broker)
    with DeadLetters(valkey.url) as letters:
        assert letters.drop("j1")
        assert not letters.drop("j1")
        assert letters.all() == []
    assert valkey.client.exists("{p}:job:j1", "{p}:log:j1") == 0
    assert await broker.attach("j1", "g1", 0) is None


async def test_one_that_expired_leaves_the_list(broker: Broker, valkey: Valkey) -> None:
    await submit(broker, "j1")
    await give_up(broker)
    valkey.client.delete("{p}:job:j1")
    with DeadLetters(valkey.url) as letters:
        assert letters.all() == []
    assert valkey.client.xlen("{p}:dead") == 0
