"""`python -m tests.bench.head`: a worker and the plain loop, with a 70B model's head and a swarm that costs no CPU."""

import asyncio
import functools
import sys
from pathlib import Path

from tests.bench.contest import Contest, Level
from tests.bench.options import make_parser
from tests.bench.report import print_report
from tests.bench.shape import MODEL, Shape
from tests.bench.sides import OURS, PLAIN, Writer, running_writer
from tests.bench.workers import running_worker
from tests.services import Worker

# The real worker wants a catalogue; the model is put in its place.
CATALOG = f"""
[[families]]
name = "Simulated"
[[families.models]]
repository = "{MODEL}"
name = "Simulated"
backend = "oracle"
"""


class SimulatedWorker(Worker):
    """`python -m tests.bench.simulated`."""

    def __init__(self, folder: Path, url: str, shape: Shape, slots: int) -> None:
        catalog = folder / "catalog.toml"
        catalog.write_text(CATALOG)
        super().__init__(folder / "worker.log", url, catalog, slots=slots)
        self.name = "tests.bench.simulated"
        self.arguments = shape.arguments


def make_plain(shape: Shape) -> Writer:
    """The plain loop over the same model."""
    from tests.bench import simulated  # torch takes seconds, and is for that process only

    return simulated.make_plain(shape)


async def compare(shape: Shape, levels: tuple[int, ...], tokens: int, rounds: int) -> list[Level]:
    """One level after the other."""
    contest = Contest([str(number) for number in range(max(levels))], tokens, rounds)
    worker = functools.partial(SimulatedWorker, shape=shape, slots=max(levels))
    plain = functools.partial(make_plain, shape)
    async with running_writer(plain, PLAIN) as (loop,), running_worker(worker, MODEL) as ours:
        return [await contest.hold({OURS: ours, PLAIN: loop}, sessions) for sessions in levels]


def main() -> int:
    """Run it; the exit status."""
    parser = make_parser("head", "Compare with the plain loop with a large head.", 16, "bfloat16")
    parser.add_argument("--vocab", type=int, default=32_000, help="rows of the head")
    parser.add_argument("--hidden", type=int, default=8_192, help="columns of the head")
    parser.add_argument("--step-ms", type=float, default=100.0, help="time that a step of the swarm takes")
    options = parser.parse_args()
    shape = Shape(options.vocab, options.hidden, options.dtype, options.step_ms)
    levels = asyncio.run(compare(shape, options.sessions, options.tokens, options.runs))
    return print_report(options.dtype, levels, options.json)


if __name__ == "__main__":
    sys.exit(main())
