"""Rows that are ready go through the head together, and each gets its own token."""

import asyncio
import threading
from typing import Any

import pytest
import torch

from shared.sampling import SamplingParams
from worker import head as heads
from worker.backend import Choice, Draw
from worker.head import MAX_ROWS, Head, project

pytestmark = pytest.mark.anyio

SIZE, VOCABULARY = 16, 50
GREEDY = SamplingParams()


class Norm:
    """Passes rows on, and notes how many came together. gate: what a product waits for."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.thread: int | None = None
        self.failure: Exception | None = None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(rows))
        self.thread = threading.get_ident()
        self.gate.wait(10)
        if self.failure:
            raise self.failure
        return rows


@pytest.fixture
def norm() -> Norm:
    return Norm()


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(VOCABULARY, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every head count as a large one."""
    monkeypatch.setattr(heads, "SMALL", 0)


def _rows(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed))


def _draws(count: int) -> list[Draw]:
    return [Draw(GREEDY, [], 0, row) for row in range(count)]


def _best(weight: torch.Tensor, rows: torch.Tensor) -> list[Choice]:
    return [Choice(int(token)) for token in (rows @ weight.T).argmax(1)]


async def test_rows_ready_in_one_turn_of_the_loop_go_together(norm: Norm, weight: torch.Tensor) -> None:
    head = Head(norm, weight)
    sessions = [_rows(count, seed) for seed, count in enumerate((1, 3, 1))]
    chosen = await asyncio.gather(*(head.choose(rows, _draws(len(rows))) for rows in sessions))
    assert norm.batches == [5]
    assert chosen == [_best(weight, rows) for rows in sessions]


@pytest.mark.usefixtures("large")
async def test_rows_that_come_during_a_product_go_together_in_the_next(norm: Norm, weight: torch.Tensor) -> None:
    head = Head(norm, weight)
    norm.gate.clear()
    first = asyncio.create_task(head.choose(_rows(1), _draws(1)))
    while not norm.batches:
        await asyncio.sleep(0)
    later = [asyncio.create_task(head.choose(_rows(2, seed), _draws(2))) for seed in (1, 2, 3)]
    await asyncio.sleep(0)
    assert not first.done()
    norm.gate.set()
    assert await first == _best(weight, _rows(1))
    assert await asyncio.gather(*later) == [_best(weight, _rows(2, seed)) for seed in (1, 2, 3)]
    assert norm.batches == [1, 6]
    assert norm.thread != threading.get_ident()
    head.close()


async def test_a_small_head_needs_no_thread(norm: Norm, weight: torch.Tensor) -> None:
    await Head(norm, weight).choose(_rows(1), _draws(1))
    assert norm.thread == threading.get_ident()


async def test_one_product_takes_a_bounded_number_of_rows(norm: Norm, weight: torch.Tensor) -> None:
    head = Head(norm, weight)
    count = MAX_ROWS // 2 + 1
    chosen = await asyncio.gather(*(head.choose(_rows(count, seed), _draws(count)) for seed in range(3)))
    assert norm.batches == [count, count, count]
    assert chosen == [_best(weight, _rows(count, seed)) for seed in range(3)]


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("rules", [{}, {"top_p": 0.9}, {"top_k": 3}, {"typical_p": 0.9}, {"min_p": 0.1}])
async def test_a_row_that_is_no_number_fails_alone(
    norm: Norm, weight: torch.Tensor, rules: dict[str, Any], value: float
) -> None:
    head = Head(norm, weight)
    sick = _rows(2, 1)
    sick[1, 3] = value
    rest = Draw(SamplingParams(do_sample=True, logprobs=2, **rules), [], 0)
    well, neighbour, ill = await asyncio.gather(
        head.choose(_rows(2), _draws(2)),
        head.choose(_rows(1), [rest]),
        head.choose(sick, [rest, Draw(rest.sampling, [], 0)]),
        return_exceptions=True,
    )
    assert isinstance(well, list)
    assert [choice.id for choice in well] == [choice.id for choice in _best(weight, _rows(2))]
    assert neighbour == await head.choose(_rows(1), [rest])
    assert isinstance(ill, FloatingPointError)


@pytest.mark.parametrize("size", [heads.SMALL, 0], ids=["small", "large"])
async def test_whoever_waits_hears_of_a_failure_and_the_head_goes_on(
    norm: Norm, weight: torch.Tensor, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(heads, "SMALL", size)
    head = Head(norm, weight)
    norm.failure = MemoryError("full")
    results = await asyncio.gather(*(head.choose(_rows(1), _draws(1)) for _ in range(2)), return_exceptions=True)
    assert [type(result) for result in results] == [MemoryError, MemoryError]
    norm.failure = None
    assert await head.choose(_rows(1), _draws(1)) == _best(weight, _rows(1))
    head.close()


@pytest.mark.usefixtures("large")
async def test_one_who_gave_up_waiting_disturbs_no_other(norm: Norm, weight: torch.Tensor) -> None:
    head = Head(norm, weight)
    norm.gate.clear()
    one, other = (asyncio.create_task(head.choose(_rows(1, seed), _draws(1))) for seed in (0, 1))
    while not norm.batches:
        await asyncio.sleep(0)
    one.cancel()
    norm.gate.set()
    assert await other == _best(weight, _rows(1, 1))
    assert one.cancelled()
    head.close()


def _linear(weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(rows.double(), weight.double())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 0.06)])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 16, 33])
def test_every_kernel_gives_the_product_within_rounding(dtype: torch.dtype, bound: float, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    weight = torch.randn(500, 256, generator=generator).div(16).to(dtype)
    rows = torch.randn(count, 256, generator=generator).to(dtype)
    logits = project(weight, rows)
    assert (logits.dtype, logits.shape, logits.is_contiguous()) == (dtype, (count, 500), True)
    assert (logits.double() - _linear(weight, rows)).abs().max() < bound


def test_a_row_gets_the_same_tokens_alone_and_among_others_in_float32() -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(4_000, 512, generator=generator)
    rows = torch.randn(64, 512, generator=generator)
    alone = torch.cat([project(weight, row.unsqueeze(0)) for row in rows])
    for count in (2, 3, 4, 16, 64):
        together = torch.cat([project(weight, rows[start : start + count]) for start in range(0, 64, count)])
        assert torch.equal(together.argmax(1), alone.argmax(1))
        assert (together - alone).abs().max() < 1e-3
