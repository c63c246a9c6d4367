"""The Petals backend on a real swarm of two servers, against the same weights in one local model."""

import asyncio
import contextlib
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from worker.petals_compat import RemoteExpertWorker  # before petals, which cannot be imported without it

# isort: split
from petals.client.inference_session import InferenceSession
from petals.client.routing.sequence_manager import MissingBlocksError
from transformers import LlamaForCausalLM

from shared.catalog import Model
from shared.errors import Code, CorollaError
from shared.sampling import SamplingParams
from tests.swarm import CACHE_TOKENS, ROOT, Swarm
from tests.waiting import until, until_async
from worker.backend import Backend, BackendSession, Draw
from worker.petals_backend import PIECE, ModelError, PetalsBackend, load

GREEDY = SamplingParams()
PROMPTS = [f"word{i}: more words, number {i * 7}?" for i in range(20)]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(180),
    # What hivemind leaves behind of a connection that broke is closed by garbage collection.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def _model(swarm: Swarm) -> Model:
    return Model(repository="tiny", name="Tiny", path=swarm.model.name, dht_prefix=swarm.dht_prefix)


def _load(swarm: Swarm, request_timeout_s: float = 30.0) -> PetalsBackend:
    return load(_model(swarm), swarm.model.parent, swarm.peers, "float32", "cpu", 16, request_timeout_s)


@pytest.fixture(scope="module")
async def backend(swarm: Swarm) -> AsyncIterator[PetalsBackend]:
    loaded = await asyncio.to_thread(_load, swarm)
    yield loaded
    await loaded.stop()
    gc.collect()


@pytest.fixture(scope="module")
def local(swarm: Swarm) -> Any:
    return LlamaForCausalLM.from_pretrained(swarm.model, torch_dtype=torch.float32).eval()


def _expected(local: Any, ids: Sequence[int], new: int) -> list[int]:
    """What transformers' greedy generate writes after `ids`. It ends early with an end-of-text token."""
    row = torch.tensor([ids])
    written = local.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=new, do_sample=False)
    return list(written[0, len(ids) :].tolist())


async def _write(
    session: BackendSession,
    feed: Sequence[int],
    new: int,
    sampling: SamplingParams = GREEDY,
    before: Sequence[int] = (),
    position: int = 0,
) -> list[int]:
    """`new` tokens after `before` (which the session knows) and `feed` (which it does not)."""
    history = [*before, *feed]
    for i in range(position, position + new):
        token = await session.step(feed, Draw(sampling, history, i))
        history.append(token)
        feed = [token]
    return history[-new:]


async def _answer(backend: Backend, ids: Sequence[int], new: int, sampling: SamplingParams = GREEDY) -> list[int]:
    session = backend.open(len(ids) + new)
    try:
        return await _write(session, ids, new, sampling)
    finally:
        await session.close()


def _until_end(tokens: list[int], eos_ids: frozenset[int]) -> list[int]:
    ends = [i for i, token in enumerate(tokens) if token in eos_ids]
    return tokens[: ends[0] + 1] if ends else tokens


async def test_greedy_tokens_equal_those_of_the_local_model(backend: PetalsBackend, local: Any) -> None:
    for prompt in PROMPTS:
        ids = backend.tokenizer.encode(prompt, fresh=True)
        written = await _answer(backend, ids, 24)
        assert _until_end(written, backend.tokenizer.eos_ids) == _expected(local, ids, 24)


async def test_sixteen_sessions_at_once_are_all_exact(backend: PetalsBackend, local: Any) -> None:
    rows = [backend.tokenizer.encode(prompt, fresh=True) for prompt in PROMPTS[:16]]
    written = await asyncio.gather(*(_answer(backend, row, 24) for row in rows))
    for row, tokens in zip(rows, written, strict=True):
        assert _until_end(tokens, backend.tokenizer.eos_ids) == _expected(local, row, 24)


async def test_a_prompt_in_several_pieces_is_exact(backend: PetalsBackend, local: Any) -> None:
    ids = backend.tokenizer.encode("".join(PROMPTS) * 6, fresh=True)
    assert len(ids) > 2 * PIECE
    written = await _answer(backend, ids, 8)
    assert _until_end(written, backend.tokenizer.eos_ids) == _expected(local, ids, 8)


@pytest.mark.parametrize(
    "sampling", [GREEDY, SamplingParams(True, 1.3, 50, 0.95, 1.1, seed=2**63 - 1)], ids=["greedy", "sampled"]
)
async def test_a_session_goes_on_in_another_one(backend: PetalsBackend, sampling: SamplingParams) -> None:
    ids = backend.tokenizer.encode(PROMPTS[3], fresh=True)
    whole = await _answer(backend, ids, 16, sampling)
    session = backend.open(100)
    assert await _write(session, [*ids, *whole[:7]], 9, sampling, position=7) == whole[7:]
    await session.close()


async def test_two_turns_in_one_session_equal_one_text(backend: PetalsBackend, local: Any) -> None:
    first, second = (backend.tokenizer.encode(PROMPTS[i], fresh=i == 0) for i in (0, 1))
    session = backend.open(200)
    answer = await _write(session, first, 5)
    more = await _write(session, [answer[-1], *second], 5, before=[*first, *answer[:-1]])
    assert _until_end(more, backend.tokenizer.eos_ids) == _expected(local, [*first, *answer, *second], 5)
    await session.close()


async def test_close_waits_for_a_cancelled_step_and_may_be_repeated(
    backend: PetalsBackend, local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    original = InferenceSession.step

    def slow(self: InferenceSession, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = original(self, inputs)
        entered.set()
        go_on.wait(30)
        return output

    ids = backend.tokenizer.encode(PROMPTS[0], fresh=True)
    session = backend.open(64)
    with monkeypatch.context() as patch:
        patch.setattr(InferenceSession, "step", slow)
        step = asyncio.create_task(session.step(ids, Draw(GREEDY, ids, 0)))
        await until_async(entered.is_set)
        step.cancel()
        closing = [asyncio.create_task(session.close()) for _ in range(2)]
        closing[1].cancel()
        await asyncio.sleep(0)
        assert not session._cache._closed
        go_on.set()
        await closing[0]
    assert session._cache._closed
    await session.close()
    assert (await _answer(backend, ids, 3)) == _expected(local, ids, 3)


async def test_a_step_after_close_is_refused(backend: PetalsBackend) -> None:
    session = backend.open(8)
    await session.close()
    with pytest.raises(CorollaError) as caught:
        await session.step([1], Draw(GREEDY, [1], 0))
    assert caught.value.code is Code.SWARM


async def test_dropped_sessions_collected_on_the_network_loop_freeze_nothing(
    backend: PetalsBackend, local: Any
) -> None:
    ids = backend.tokenizer.encode(PROMPTS[0], fresh=True)

    async def collect() -> int:
        return gc.collect()

    for _ in range(20):
        session = backend.open(64)
        await session.step(ids, Draw(GREEDY, ids, 0))
        session._cache.cycle = session._cache  # only a collection finds it
        del session
    await asyncio.to_thread(RemoteExpertWorker.run_coroutine, collect())
    assert await asyncio.wait_for(_answer(backend, ids, 3), 10) == _expected(local, ids, 3)


async def test_no_room_for_the_attention_cache_is_said_and_harms_no_other(backend: PetalsBackend, local: Any) -> None:
    ids = backend.tokenizer.encode(PROMPTS[0], fresh=True)
    session = backend.open(CACHE_TOKENS + 1)
    with pytest.raises(CorollaError, match="attention cache is full") as caught:
        await session.step(ids, Draw(GREEDY, ids, 0))
    assert caught.value.code is Code.CACHE_FULL
    await session.close()
    assert await asyncio.wait_for(_answer(backend, ids, 3), 10) == _expected(local, ids, 3)


@pytest.mark.parametrize(
    "error",
    [MissingBlocksError([0]), TimeoutError(), ConnectionError("/ip4/10.0.0.1"), StopAsyncIteration(), AssertionError()],
)
async def test_errors_of_the_swarm_reach_nobody_as_they_are(
    backend: PetalsBackend, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(self: InferenceSession, inputs: torch.Tensor) -> torch.Tensor:
        raise error

    monkeypatch.setattr(InferenceSession, "step", broken)
    session = backend.open(8)
    with pytest.raises(CorollaError) as caught:
        await session.step([1], Draw(GREEDY, [1], 0))
    assert caught.value.code is Code.SWARM
    assert caught.value.message == "The swarm did not complete a step in time, please try again later"
    await session.close()


@pytest.fixture
async def hasty(swarm: Swarm) -> AsyncIterator[PetalsBackend]:
    """A backend that gives servers one second to answer."""
    loaded = await asyncio.to_thread(_load, swarm, 1.0)
    yield loaded
    await loaded.stop()


@contextlib.contextmanager
def _frozen(server: subprocess.Popen[bytes]) -> Iterator[Callable[[], None]]:
    """The server hangs inside of it, until the function that it gives is called."""

    def thaw() -> None:
        os.killpg(server.pid, signal.SIGCONT)

    os.killpg(server.pid, signal.SIGSTOP)
    try:
        yield thaw
    finally:
        thaw()


async def test_a_session_survives_a_server_that_hangs_for_a_while(
    swarm: Swarm, hasty: PetalsBackend, local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = hasty.tokenizer.encode(PROMPTS[2], fresh=True)
    session = hasty.open(64)
    before = await _write(session, ids, 4)
    with _frozen(swarm.servers[1]) as thaw:
        manager = hasty._model.transformer.h.sequence_manager
        monkeypatch.setattr(manager, "on_request_failure", lambda _: thaw())
        after = await asyncio.wait_for(_write(session, before[-1:], 4, before=[*ids, *before[:-1]], position=4), 60)
    assert _until_end(before + after, hasty.tokenizer.eos_ids) == _expected(local, ids, 8)
    await session.close()


async def test_a_server_that_hangs_for_long_fails_the_step_in_time_and_is_used_again_later(
    swarm: Swarm, hasty: PetalsBackend, local: Any
) -> None:
    ids = hasty.tokenizer.encode(PROMPTS[0], fresh=True)
    session = hasty.open(64)
    await session.step(ids, Draw(GREEDY, ids, 0))
    with _frozen(swarm.servers[1]):
        with pytest.raises(CorollaError) as caught:
            await asyncio.wait_for(session.step([5], Draw(GREEDY, [*ids, 5], 1)), 45)
        await asyncio.wait_for(session.close(), 20)
    assert caught.value.code is Code.SWARM

    async def recovered() -> list[int]:
        while True:
            try:
                return await _answer(hasty, ids, 3)
            except CorollaError:
                await asyncio.sleep(0.1)

    assert await asyncio.wait_for(recovered(), 60) == _expected(local, ids, 3)


async def test_stop_leaves_no_process_and_a_late_close_does_no_harm(swarm: Swarm, backend: PetalsBackend) -> None:
    before = set(psutil.Process().children(recursive=True))
    second = await asyncio.to_thread(_load, swarm)
    session = second.open(8)
    await session.step([5], Draw(GREEDY, [5], 0))
    assert len(set(psutil.Process().children(recursive=True)) - before) == 2  # the DHT and its p2pd
    await second.stop()
    await until_async(lambda: set(psutil.Process().children(recursive=True)) <= before)
    await session.close()


async def test_stop_ends_a_step_that_a_server_keeps_waiting(swarm: Swarm) -> None:
    backend = await asyncio.to_thread(_load, swarm, 2.0)
    session = backend.open(8)
    await session.step([5], Draw(GREEDY, [5], 0))
    with _frozen(swarm.servers[1]):
        step = asyncio.create_task(session.step([6], Draw(GREEDY, [5, 6], 1)))
        await until_async(session._in_use.locked)
        await backend.stop()
        with pytest.raises(CorollaError):
            await asyncio.wait_for(step, 10)


CLIENT = """
import asyncio, pathlib, sys
from shared.catalog import Model
from shared.sampling import SamplingParams
from worker.backend import Draw
from worker.petals_backend import load
folder, prefix, peer = sys.argv[1:]
async def main():
    model = Model("tiny", "Tiny", path=folder, dht_prefix=prefix)
    backend = load(model, pathlib.Path("/"), (peer,), "float32", "cpu", 4)
    await backend.open(8).step([5], Draw(SamplingParams(), [5], 0))
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_a_killed_client_is_small_and_leaves_no_process(swarm: Swarm) -> None:
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(swarm.model), swarm.dht_prefix, *swarm.peers],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"
    processes = [psutil.Process(client.pid), *psutil.Process(client.pid).children(recursive=True)]
    assert len(processes) >= 3
    assert sum(process.memory_full_info().pss for process in processes) < 700e6
    client.kill()
    client.wait()
    client.stdout.close()
    until(lambda: not any(_alive(process) for process in processes), 15)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _failure(folder: Path, swarm: Swarm, dht_prefix: str | None) -> str:
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(ModelError) as caught:
        load(Model("tiny", "Tiny", path="m", dht_prefix=dht_prefix), folder, swarm.peers, "float32", "cpu", 1)
    until(lambda: set(psutil.Process().children(recursive=True)) <= before)
    return str(caught.value)


def test_pickled_weights_are_refused(swarm: Swarm, tmp_path: Path) -> None:
    shutil.copytree(swarm.model, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({}, tmp_path / "m" / "pytorch_model.bin")
    failure = _failure(tmp_path, swarm, "tiny")
    assert (
        failure
        == "the model tiny cannot be loaded: its folder holds no model.safetensors (pickled weights are refused)"
    )


def test_a_missing_folder_is_one_clear_line(swarm: Swarm, tmp_path: Path) -> None:
    failure = _failure(tmp_path, swarm, "tiny")
    assert failure == f"the model tiny cannot be loaded: its folder {tmp_path / 'm'} does not exist"


def test_a_local_model_needs_the_swarms_name_for_it(swarm: Swarm, tmp_path: Path) -> None:
    shutil.copytree(swarm.model, tmp_path / "m")
    failure = _failure(tmp_path, swarm, None)
    assert failure == "the model tiny cannot be loaded: a model with a path needs a dht_prefix, its name in the swarm"


def test_a_swarm_that_cannot_be_joined_is_one_clear_line(swarm: Swarm) -> None:
    peer = re.sub(r"/tcp/\d+", "/tcp/1", swarm.peers[0])
    with pytest.raises(ModelError, match=r"^the model tiny cannot be loaded: Daemon failed to start: .*$"):
        load(_model(swarm), swarm.model.parent, (peer,), "float32", "cpu", 1)
