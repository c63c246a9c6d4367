"""Servers of a swarm that die in mid-answer: the answer goes on at others, or ends with a clear error in time."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from worker import petals_compat  # noqa: F401  before petals, which cannot be imported without it

# isort: split
from transformers import LlamaForCausalLM

from shared.errors import Code
from shared.messages import FinishReason, JobFailed, JobFinished
from shared.sampling import SamplingParams
from tests.swarm import Swarm, running_swarm, stop_group
from tests.valkey import Valkey
from tests.waiting import until_async
from tests.worker.desk import Desk, desk
from tests.worker.petals_model import PROMPTS, expected, loaded
from worker.petals_chain import StreamChain

JOBS = 4
LENGTH = 120

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(180),
    # What hivemind leaves behind of a connection that broke is closed by garbage collection.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def four(swarm: Swarm) -> Iterator[Swarm]:
    """Two servers for each half of the model."""
    with running_swarm(swarm.model, copies=2) as four:
        yield four


def _servers_in_use(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Peer ids of the servers that chains were connected to from now on, the latest last."""
    used: list[str] = []
    original = StreamChain._find_route

    def find(self: StreamChain) -> Any:
        route = original(self)
        used.extend(leg.peer_id.to_base58() for leg in route)
        return route

    monkeypatch.setattr(StreamChain, "_find_route", find)
    return used


async def _start(at: Desk) -> list[str]:
    """Several long answers, each some tokens old."""
    sampling = SamplingParams(ignore_eos=True)
    jobs = [await at.start(prompt=prompt, max_new_tokens=LENGTH, sampling=sampling) for prompt in PROMPTS[:JOBS]]
    for job in jobs:
        await at.tokens(job, 3)
    return jobs


async def _rest(at: Desk, timeout_s: float) -> None:
    await until_async(lambda: at.engine.free == JOBS, timeout_s)


async def _written(at: Desk, job: str) -> list[int]:
    tokens, ending = await at.log(job)
    assert isinstance(ending, JobFinished)
    assert ending.reason is FinishReason.LENGTH
    return [token.id for token in tokens]


async def test_answers_go_on_when_servers_die_and_end_clearly_when_none_is_left(
    four: Swarm, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LlamaForCausalLM.from_pretrained(four.model, torch_dtype=torch.float32).eval()
    local.generation_config.eos_token_id = None
    used = _servers_in_use(monkeypatch)
    async with (
        loaded(four, request_timeout_s=2.0) as backend,
        desk(valkey, backend, slots=JOBS, capacity=2 * LENGTH) as at,
    ):
        answers = [expected(local, backend.tokenizer.encode(prompt, True), LENGTH) for prompt in PROMPTS[:JOBS]]

        # given answers under way, when a server that they use is killed: they are exact
        jobs = await _start(at)
        connected = len(used)
        stop_group(four.servers[used[0]], signal.SIGKILL)
        await _rest(at, 30)
        assert [await _written(at, job) for job in jobs] == answers
        assert len(used) > connected

        # given a server that they use hangs: they are exact all the same
        jobs = await _start(at)
        connected = len(used)
        hanging = four.servers[used[-1]]
        os.killpg(hanging.pid, signal.SIGSTOP)
        await _rest(at, 60)
        assert [await _written(at, job) for job in jobs] == answers
        assert len(used) > connected
        stop_group(hanging, signal.SIGKILL)

        # given the last server of the first half is killed: a clear error, long before the deadline
        jobs = await _start(at)
        stop_group(four.servers[used[-2]], signal.SIGKILL)
        await _rest(at, 45)
        for job in jobs:
            _, ending = await at.log(job)
            message = "The swarm did not complete a step in time, please try again later"
            assert ending == JobFailed(Code.SWARM, message)
