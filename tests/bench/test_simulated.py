"""The simulated model counts, however it is asked."""

import pytest
import torch

from shared.sampling import SamplingParams
from tests.bench.shape import Shape
from tests.bench.sides import NATIVE, PLAIN
from tests.bench.simulated import SimulatedBackend, make_plain
from worker.backend import Draw

SHAPE = Shape(vocab=64, hidden=256, dtype="bfloat16", step_ms=0)


@pytest.mark.parametrize("name", [PLAIN, NATIVE])
def test_petals_client_counts_from_each_prompt(name: str) -> None:
    # when
    answers = make_plain(SHAPE).write(name, ["17", "62", "5"], 3)
    # then
    assert answers == [(18, 19, 20), (63, 0, 1), (6, 7, 8)]


@pytest.mark.anyio
async def test_our_session_counts_as_well() -> None:
    # given
    threads = torch.get_num_threads()
    backend = SimulatedBackend(SHAPE)
    session = backend.open(8)
    ids = backend.tokenizer.encode("17", True)
    draw = Draw(SamplingParams(), ids, len(ids))
    # when
    for _ in range(3):
        (choice,) = await session.step([ids[-1:]], [draw])
        ids.append(choice.id)
    # then
    assert ids == [17, 18, 19, 20]
    await session.close()
    await backend.stop()
    torch.set_num_threads(threads)
