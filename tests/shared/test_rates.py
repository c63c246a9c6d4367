"""Rates and ownership, which the broker's scripts decide, against a real server."""

import dataclasses
from collections.abc import AsyncIterator

import pytest

from shared.broker import Broker
from shared.errors import Code, CorollaError
from shared.messages import FinishReason, JobFinished, JobRequest, Token
from shared.records import Append, Bounds, Busy, Registration, SessionInfo, Submission
from shared.sampling import SamplingParams
from tests.valkey import Valkey

pytestmark = pytest.mark.anyio

MODEL = "corolla/oracle"
REQUEST = JobRequest(model=MODEL, sampling=SamplingParams(seed=7), prompt="hi", max_new_tokens=3)
WHO = Registration("w1", (MODEL,), 4)


@pytest.fixture
async def broker(valkey: Valkey) -> AsyncIterator[Broker]:
    async with Broker(valkey.url) as broker:
        yield broker


def job(name: str, tenant: str = "x", account: str = "", session: str | None = None) -> Submission:
    return Submission(name, REQUEST, "g1", 60_000, tenant=tenant, account=account, session=session)


def later(valkey: Valkey, name: str, ms: int) -> None:
    """Let time pass for that rate."""
    valkey.client.incrbyfloat(name, -ms)


async def refusal(broker: Broker, submission: Submission, bounds: Bounds) -> Busy:
    with pytest.raises(Busy) as refused:
        await broker.submit(submission, bounds)
    return refused.value


async def test_a_minutes_requests_at_once_then_one_every_so_often(broker: Broker, valkey: Valkey) -> None:
    # given three requests a minute
    bounds = Bounds(requests_per_min=3)
    for number in range(3):
        assert await broker.submit(job(f"j{number}"), bounds) == "accepted"
    # then the fourth is told to come back when a third of a minute is over
    refused = await refusal(broker, job("j3"), bounds)
    assert (refused.code, valkey.client.exists("{p}:job:j3")) == (Code.RATE, 0)
    assert 19_000 < refused.wait_ms <= 20_000
    # and others, and what was accepted before, are not held up by that
    assert await broker.submit(job("y", tenant="y"), bounds) == "accepted"
    assert await broker.submit(job("j1"), bounds) == "known"
    # and then there is one more, and no second one
    later(valkey, "{p}:rate:requests:x", refused.wait_ms)
    assert await broker.submit(job("j3"), bounds) == "accepted"
    assert (await refusal(broker, job("j4"), bounds)).wait_ms > 19_000


async def test_the_first_job_of_a_request_counts_for_all(broker: Broker, valkey: Valkey) -> None:
    # given three prompts a minute, and a request of two
    bounds, rate = Bounds(requests_per_min=3), "{p}:rate:requests:x"
    one, two = dataclasses.replace(job("j1"), prompts=2), dataclasses.replace(job("j2"), prompts=0)
    assert [await broker.submit(each, bounds) for each in (one, two)] == ["accepted", "accepted"]
    # then another one of two is told to come back when there is room for both, and nothing of it counts
    before = valkey.client.get(rate)
    refused = await refusal(broker, dataclasses.replace(one, id="j3"), bounds)
    assert 19_000 < refused.wait_ms <= 20_000
    # and what was accepted counts once
    assert [await broker.submit(each, bounds) for each in (one, two)] == ["known", "known"]
    assert valkey.client.get(rate) == before
    # and then both are let in, though the first has used up the minute
    later(valkey, rate, refused.wait_ms)
    assert await broker.submit(dataclasses.replace(one, id="j3"), bounds) == "accepted"
    assert await broker.submit(dataclasses.replace(two, id="j4"), bounds) == "accepted"
    assert (await refusal(broker, job("j5"), bounds)).code == Code.RATE


async def test_tokens_that_come_in_between_refuse_no_half_of_a_request(broker: Broker, valkey: Valkey) -> None:
    bounds = Bounds(tokens_per_min=10)
    await broker.submit(dataclasses.replace(job("j1"), prompts=2), bounds)
    valkey.client.incrbyfloat("{p}:rate:tokens:x", 10**15)
    assert await broker.submit(dataclasses.replace(job("j2"), prompts=0), bounds) == "accepted"
    assert (await refusal(broker, job("j3"), bounds)).code == Code.RATE


async def test_tokens_count_when_they_are_there(broker: Broker, valkey: Valkey) -> None:
    # given ten tokens a minute, and an answer of twelve
    bounds = Bounds(tokens_per_min=10)
    await broker.submit(job("j1"), bounds)
    (claim,) = await broker.claim(WHO, 1, 0)
    assert valkey.client.exists("{p}:rate:tokens:x") == 0
    tokens = tuple(Token(number, "a") for number in range(12))
    await broker.append([Append("j1", claim.epoch, 1, tokens, JobFinished(FinishReason.LENGTH, 2, 12))])
    # then the next one waits until there is a token to be had
    refused = await refusal(broker, job("j2"), bounds)
    assert 17_000 < refused.wait_ms <= 18_000
    later(valkey, "{p}:rate:tokens:x", refused.wait_ms)
    assert await broker.submit(job("j2"), bounds) == "accepted"


async def test_without_a_rate_nothing_is_counted(broker: Broker, valkey: Valkey) -> None:
    await broker.submit(job("j1"), Bounds())
    await broker.cancel("j1")
    assert list(valkey.client.scan_iter("*rate*")) == []


async def test_a_rate_that_is_made_up_for_leaves_no_key(broker: Broker, valkey: Valkey) -> None:
    await broker.submit(job("j1"), Bounds(requests_per_min=60))
    assert 0 < valkey.client.pttl("{p}:rate:requests:x") <= 1000


async def test_a_job_is_its_accounts(broker: Broker) -> None:
    await broker.submit(job("j1", account="a"), Bounds())
    assert (await broker.note("j1", "a"), await broker.note("j1", "b"), await broker.note("j1")) == (b"", None, None)
    with pytest.raises(CorollaError, match="The job's id is taken"):
        await broker.submit(job("j1", account="b"), Bounds())
    assert await broker.submit(job("j1", account="a"), Bounds()) == "known"


async def test_a_session_is_its_accounts(broker: Broker) -> None:
    await broker.open_session("s1", MODEL, 64, 60_000, 9, "a")
    assert await broker.session("s1", "b") is None
    assert await broker.session("s1") is None
    with pytest.raises(CorollaError, match="Session 's1' expired or does not exist"):
        await broker.submit(job("j1", account="b", session="s1"), Bounds())
    await broker.close_session("s1", "b")
    assert await broker.session("s1", "a") == SessionInfo("s1", MODEL, 64)
    assert await broker.submit(job("j1", account="a", session="s1"), Bounds()) == "accepted"
    await broker.close_session("s1", "a")
    assert await broker.session("s1", "a") is None


async def test_the_highest_rates(broker: Broker, valkey: Valkey) -> None:
    # given so many a minute that one takes less time than a clock can tell
    bounds = Bounds(requests_per_min=10**9, tokens_per_min=10**9)
    await broker.submit(job("j1"), bounds)
    (claim,) = await broker.claim(WHO, 1, 0)
    # when it ends
    ending = JobFinished(FinishReason.LENGTH, 2, 1)
    (answer,) = await broker.append([Append("j1", claim.epoch, 1, (Token(1, "a"),), ending)])
    # then it counts, and is soon made up for
    assert answer.status == "ok"
    assert await broker.submit(job("j2"), bounds) == "accepted"
