"""Sessions of the Petals backend on a real swarm, against the same weights in one local model.

Everything is tested twice: over streams of our own, and through Petals' own client.
"""

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import torch

from worker.petals_compat import RemoteExpertWorker  # before petals, which cannot be imported without it

# isort: split
from petals.client import inference_session
from petals.client.routing.sequence_manager import MissingBlocksError
from transformers import LlamaForCausalLM

from shared.errors import Code, CorollaError
from shared.sampling import SamplingParams
from tests.swarm import CACHE_TOKENS, Swarm
from tests.worker.petals_model import GREEDY, PROMPTS, answer, expected, loaded, step, until_end, write
from worker.backend import MAX_POSITIONS, Draw
from worker.petals_backend import PetalsBackend, PetalsSession
from worker.petals_chain import StreamChain
from worker.petals_public import PublicChain

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(180),
    # What hivemind leaves behind of a connection that broke is closed by garbage collection.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", params=["streams", "public"])
async def backend(swarm: Swarm, request: pytest.FixtureRequest) -> AsyncIterator[PetalsBackend]:
    async with loaded(swarm, streams=request.param == "streams") as backend:
        yield backend


@pytest.fixture(autouse=True)
def _litter() -> Iterator[None]:
    """What these tests break is collected while they last, and not as a warning of a test that comes later."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def local(swarm: Swarm) -> Any:
    return LlamaForCausalLM.from_pretrained(swarm.model, torch_dtype=torch.float32).eval()


async def test_greedy_tokens_equal_those_of_the_local_model(backend: PetalsBackend, local: Any) -> None:
    for prompt in PROMPTS:
        ids = backend.tokenizer.encode(prompt, fresh=True)
        written = await answer(backend, ids, 24)
        assert until_end(written, backend.tokenizer.eos_ids) == expected(local, ids, 24)


async def test_sixteen_sessions_at_once_are_all_exact(backend: PetalsBackend, local: Any) -> None:
    rows = [backend.tokenizer.encode(prompt, fresh=True) for prompt in PROMPTS[:16]]
    written = await asyncio.gather(*(answer(backend, row, 24) for row in rows))
    for row, tokens in zip(rows, written, strict=True):
        assert until_end(tokens, backend.tokenizer.eos_ids) == expected(local, row, 24)


async def test_a_prompt_in_several_pieces_is_exact(backend: PetalsBackend, local: Any) -> None:
    ids = backend.tokenizer.encode("".join(PROMPTS) * 6, fresh=True)
    assert len(ids) > 2 * MAX_POSITIONS
    session = backend.open(len(ids) + 8)
    *pieces, last = [ids[start : start + MAX_POSITIONS] for start in range(0, len(ids), MAX_POSITIONS)]
    for piece in pieces:
        assert await session.step([piece], []) == []
    written = await write(session, last, 8, before=ids[: -len(last)])
    assert until_end(written, backend.tokenizer.eos_ids) == expected(local, ids, 8)
    await session.close()


@pytest.mark.parametrize(
    "sampling", [GREEDY, SamplingParams(True, 1.3, 50, 0.95, seed=2**63 - 1)], ids=["greedy", "sampled"]
)
async def test_a_session_goes_on_in_another_one(backend: PetalsBackend, sampling: SamplingParams) -> None:
    ids = backend.tokenizer.encode(PROMPTS[3], fresh=True)
    whole = await answer(backend, ids, 16, sampling)
    session = backend.open(100)
    assert await write(session, [*ids, *whole[:7]], 9, sampling, position=7) == whole[7:]
    await session.close()


async def test_two_turns_in_one_session_equal_one_text(backend: PetalsBackend, local: Any) -> None:
    first, second = (backend.tokenizer.encode(PROMPTS[i], fresh=i == 0) for i in (0, 1))
    session = backend.open(200)
    said = await write(session, first, 5)
    more = await write(session, [said[-1], *second], 5, before=[*first, *said[:-1]])
    assert until_end(more, backend.tokenizer.eos_ids) == expected(local, [*first, *said, *second], 5)
    await session.close()


async def test_rows_of_one_session_are_exact_and_may_change_places(backend: PetalsBackend, local: Any) -> None:
    # given two rows of equal length in one session
    texts = [backend.tokenizer.encode(PROMPTS[i], fresh=True)[:10] for i in (1, 12)]
    written = [expected(local, ids, 4) for ids in texts]
    rows = [list(ids) for ids in texts]
    draws = [Draw(GREEDY, row, 10, number) for number, row in enumerate(rows)]
    session = backend.open(20, rows=2)
    for row, choice in zip(rows, await session.step(rows, draws), strict=True):
        row.append(choice.id)
    assert [row[-1] for row in rows] == [first for first, *_ in written]
    # when both go on from the other's cache
    crossed = [[*rows[1]], [*rows[0]]]
    draws = [Draw(GREEDY, row, 10, number) for number, row in enumerate(crossed)]
    chosen = await session.step([row[-1:] for row in crossed], draws, parents=[1, 0])
    # then each writes what the other would have written
    assert [choice.id for choice in chosen] == [written[1][1], written[0][1]]
    await session.close()


async def test_close_waits_for_a_cancelled_step_and_may_be_repeated(backend: PetalsBackend, local: Any) -> None:
    ids = backend.tokenizer.encode(PROMPTS[0], fresh=True)
    session = backend.open(64)
    await step(session, ids, Draw(GREEDY, ids, len(ids)))
    steps = asyncio.create_task(step(session, [5], Draw(GREEDY, [*ids, 5], len(ids))))
    await asyncio.sleep(0)
    steps.cancel()
    closing = [asyncio.create_task(session.close()) for _ in range(2)]
    await asyncio.sleep(0)
    closing[1].cancel()
    await closing[0]
    await session.close()
    with pytest.raises(asyncio.CancelledError):
        await steps
    assert (await answer(backend, ids, 3)) == expected(local, ids, 3)


async def _collect() -> int:
    return gc.collect()


async def test_dropped_sessions_collected_on_the_network_loop_freeze_nothing(
    backend: PetalsBackend, local: Any
) -> None:
    ids = backend.tokenizer.encode(PROMPTS[0], fresh=True)
    for _ in range(20):
        session = backend.open(64)
        await step(session, ids, Draw(GREEDY, ids, len(ids)))
        session._chain.cycle = session._chain  # type: ignore[attr-defined]  # only a collection finds it
        del session
    await asyncio.to_thread(RemoteExpertWorker.run_coroutine, _collect())
    assert await asyncio.wait_for(answer(backend, ids, 3), 60) == expected(local, ids, 3)


async def test_closes_that_fail_are_closes_and_freeze_nothing(
    backend: PetalsBackend, local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Any) -> None:
        raise BrokenPipeError

    ids = backend.tokenizer.encode(PROMPTS[0], fresh=True)
    with monkeypatch.context() as patch:
        patch.setattr(asyncio.StreamReader, "read", broken)
        patch.setattr(inference_session._ServerInferenceSession, "_aclose_stream", broken)
        for _ in range(20):
            session = backend.open(64)
            await step(session, ids, Draw(GREEDY, ids, len(ids)))
            await asyncio.wait_for(session.close(), 60)
            session._chain.cycle = session._chain  # type: ignore[attr-defined]
            del session
    await asyncio.to_thread(RemoteExpertWorker.run_coroutine, _collect())
    assert await asyncio.wait_for(answer(backend, ids, 3), 60) == expected(local, ids, 3)


async def test_a_stream_that_broke_fails_the_step_and_can_be_closed(swarm: Swarm) -> None:
    """Its server has died, perhaps: then p2pd closes the connection, which the loop may know before us."""
    async with loaded(swarm) as backend:
        session = backend.open(64)
        await step(session, [5], Draw(GREEDY, [5], 1))
        await _break(session)
        with pytest.raises(CorollaError) as caught:
            await step(session, [6], Draw(GREEDY, [5, 6], 1))
        assert caught.value.code is Code.SWARM
        await session.close()

        session = backend.open(64)
        await step(session, [5], Draw(GREEDY, [5], 1))
        await _break(session)
        await session.close()


async def _break(session: PetalsSession) -> None:
    assert isinstance(session._chain, StreamChain)
    for stream in session._chain._streams:
        stream._writer.transport.abort()
        await stream._reader.read()


async def test_no_room_for_the_attention_cache_is_said_and_harms_no_other(backend: PetalsBackend, local: Any) -> None:
    ids = backend.tokenizer.encode(PROMPTS[0], fresh=True)
    session = backend.open(CACHE_TOKENS + 1)
    with pytest.raises(CorollaError, match="attention cache is full") as caught:
        await step(session, ids, Draw(GREEDY, ids, len(ids)))
    assert caught.value.code is Code.CACHE_FULL
    await session.close()
    assert await asyncio.wait_for(answer(backend, ids, 3), 60) == expected(local, ids, 3)


async def test_a_server_without_room_is_not_banned(swarm: Swarm) -> None:
    async with loaded(swarm) as backend:
        session = backend.open(CACHE_TOKENS + 1)
        with pytest.raises(CorollaError, match="attention cache is full"):
            await step(session, [5], Draw(GREEDY, [5], 1))
        await session.close()
        # then routes may still go over it, but prefer those that have room
        state = backend._manager.state
        known = {span.peer_id: span.server_info.cache_tokens_left for span in state.sequence_info.spans_by_priority}
        assert not any(peer in state.banned_peers for peer in known)
        full, other = swarm.servers
        left = {peer.to_base58(): count for peer, count in known.items()}
        assert left == {full: 0, other: left[other]}
        assert left[other] > 0


@pytest.mark.parametrize(
    "error",
    [MissingBlocksError([0]), TimeoutError(), ConnectionError("/ip4/10.0.0.1"), StopAsyncIteration(), AssertionError()],
)
async def test_errors_of_the_swarm_reach_nobody_as_they_are(
    backend: PetalsBackend, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def broken(*_: object) -> torch.Tensor:
        raise error

    for chain in (StreamChain, PublicChain):
        monkeypatch.setattr(chain, "step", broken)
    session = backend.open(8)
    with pytest.raises(CorollaError) as caught:
        await step(session, [1], Draw(GREEDY, [1], 1))
    assert caught.value.code is Code.SWARM
    assert caught.value.message == "The swarm did not complete a step in time, please try again later"
    await session.close()


async def test_a_hidden_state_that_is_no_number_is_an_error(
    backend: PetalsBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: object, hidden: torch.Tensor, __: object) -> torch.Tensor:
        return hidden * torch.nan

    for chain in (StreamChain, PublicChain):
        monkeypatch.setattr(chain, "step", broken)
    session = backend.open(8)
    with pytest.raises(CorollaError) as caught:
        await step(session, [1], Draw(GREEDY, [1], 1))
    assert caught.value.code is Code.SWARM
    await session.close()


@pytest.fixture(params=["streams", "public"])
async def hasty(swarm: Swarm, request: pytest.FixtureRequest) -> AsyncIterator[PetalsBackend]:
    """A backend that gives servers one second to answer."""
    async with loaded(swarm, 1.0, request.param == "streams") as backend:
        yield backend


def _last_server(swarm: Swarm) -> subprocess.Popen[bytes]:
    """The one with the second half of the blocks."""
    return list(swarm.servers.values())[-1]


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


async def test_a_server_that_hangs_fails_the_step_in_time_and_is_used_again_later(
    swarm: Swarm, hasty: PetalsBackend, local: Any
) -> None:
    ids = hasty.tokenizer.encode(PROMPTS[0], fresh=True)
    session = hasty.open(64)
    await step(session, ids, Draw(GREEDY, ids, len(ids)))
    with _frozen(_last_server(swarm)):
        with pytest.raises(CorollaError) as caught:
            await asyncio.wait_for(step(session, [5], Draw(GREEDY, [*ids, 5], len(ids))), 15)
        await asyncio.wait_for(session.close(), 60)
    assert caught.value.code is Code.SWARM

    async def recovered() -> list[int]:
        while True:
            try:
                return await answer(hasty, ids, 3)
            except CorollaError:
                await asyncio.sleep(0.1)

    assert await asyncio.wait_for(recovered(), 60) == expected(local, ids, 3)


async def test_stop_ends_a_step_that_a_server_keeps_waiting(swarm: Swarm, hasty: PetalsBackend) -> None:
    session = hasty.open(8)
    await step(session, [5], Draw(GREEDY, [5], 1))
    with _frozen(_last_server(swarm)):
        stepping = asyncio.create_task(step(session, [6], Draw(GREEDY, [5, 6], 1)))
        await asyncio.sleep(0)
        await hasty.stop()
        with pytest.raises(CorollaError):
            await asyncio.wait_for(stepping, 60)
