"""From hidden states to tokens: norm, head and sampling, for all rows that are ready together.

A large head is read whole from memory for every product, however many rows go through it. So rows that come while one
product is under way wait, and the next one takes them all; no row waits for one that is not there yet.
"""

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from worker.backend import Choice, Draw
from worker.sampling import Row, Sampler, choose

MAX_ROWS = 64  # of one product: bounds its memory, and its time where rows cost time
SMALL = 2**20  # weights: on a CPU, rows go through so few in less time than a change of threads costs


@dataclasses.dataclass(frozen=True)
class _Ready:
    """Rows of one session, and where their tokens go. hidden: [rows, size]."""

    hidden: torch.Tensor
    rows: list[Row]
    chosen: asyncio.Future[list[Choice]]

    def answer(self, choices: list[Choice] | Exception) -> None:
        if self.chosen.done():
            return  # nobody waits any more
        if isinstance(choices, Exception):
            self.chosen.set_exception(choices)
        else:
            self.chosen.set_result(choices)


class Head:
    """A model's norm and head. norm: of rows; weight: [vocabulary, size], on the device where all is to be computed.

    Used from one event loop. It computes in a thread of its own, or on the loop where that takes next to no time.
    """

    def __init__(self, norm: Callable[[torch.Tensor], torch.Tensor], weight: torch.Tensor) -> None:
        self.weights = weight.numel()
        self._norm = norm
        self._weight = weight
        self._small = weight.device.type == "cpu" and self.weights <= SMALL
        self._sampler = Sampler(len(weight))
        self._ready: deque[_Ready] = deque()
        self._working: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="head")

    async def choose(self, hidden: torch.Tensor, draws: Sequence[Draw]) -> list[Choice]:
        """The tokens that follow the rows of `hidden` [rows, size], which is on the CPU.

        Raises FloatingPointError where a row is not finite, InvalidField for a rule that its vocabulary cannot have.
        """
        loop = asyncio.get_running_loop()
        ready = _Ready(hidden, self._sampler.admit(draws), loop.create_future())
        self._ready.append(ready)
        if not self._working:
            self._working = loop.create_task(self._work())
        return await ready.chosen

    @torch.inference_mode()
    def total(self, hidden: torch.Tensor) -> list[float]:
        """The sum of the normed rows of `hidden` [rows, size].

        Raises FloatingPointError where a row is not finite.
        """
        total = self._norm(hidden.to(self._weight.device, self._weight.dtype)).float().sum(0)
        if not torch.isfinite(total).all():
            raise FloatingPointError
        return list(total.tolist())

    def close(self) -> None:
        """End the thread once it has nothing to do."""
        self._thread.shutdown(wait=False)

    async def _work(self) -> None:
        """While rows are ready. It begins in the loop's next turn, with all that become ready in this one."""
        loop = asyncio.get_running_loop()
        while self._ready:
            batch = self._take()
            if self._small:
                answers = self._compute(batch)
            else:
                answers = await loop.run_in_executor(self._thread, self._compute, batch)
            for ready, answer in zip(batch, answers, strict=True):
                ready.answer(answer)
        self._working = None

    def _take(self) -> list[_Ready]:
        """What goes through the head next, the longest waiting first."""
        batch = [self._ready.popleft()]
        rows = len(batch[0].rows)
        while self._ready and rows + len(self._ready[0].rows) <= MAX_ROWS:
            batch.append(self._ready.popleft())
            rows += len(batch[-1].rows)
        return batch

    def _compute(self, batch: list[_Ready]) -> list[list[Choice] | Exception]:
        """What each in the batch is to get."""
        try:
            choices, finite = self._choose(batch)
        except Exception as error:  # whatever it is, those who wait must hear of it
            return [error] * len(batch)
        answers: list[list[Choice] | Exception] = []
        start = 0
        for ready in batch:
            end = start + len(ready.rows)
            answers.append(choices[start:end] if all(finite[start:end]) else FloatingPointError())
            start = end
        return answers

    @torch.inference_mode()
    def _choose(self, batch: list[_Ready]) -> tuple[list[Choice], list[bool]]:
        """The choice for every row, and whether the row was finite."""
        hidden = torch.cat([ready.hidden for ready in batch]) if len(batch) > 1 else batch[0].hidden
        finite = torch.isfinite(hidden).all(dim=1)
        # Where one row is no number its token would be beyond the vocabulary: that fails all rows, on a GPU for good.
        sound = hidden if finite.all() else hidden.masked_fill(~finite.unsqueeze(1), 0)
        logits = project(self._weight, self._norm(sound.to(self._weight.device, self._weight.dtype)))
        return choose(logits, [row for ready in batch for row in ready.rows]), finite.tolist()


def project(weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The product rows x weight^T: [rows, vocabulary].

    On a CPU by the kernel that is fastest for so many rows. With 32,000 x 8,192 weights on two cores, 16 rows take 69
    ms instead of 112 with the weight first, 8 rows 71 instead of 162 (float32); one row 19 instead of 36 as a vector
    (bfloat16).
    """
    if weight.device.type != "cpu" or (weight.dtype == torch.float32 and len(rows) < 4):
        return torch.nn.functional.linear(rows, weight)
    if len(rows) == 1:
        return torch.mv(weight, rows[0]).unsqueeze(0)
    return (weight @ rows.T).T.contiguous()
