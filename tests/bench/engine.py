"""`python -m tests.bench.engine`: a worker and the plain loop, with the demo model on a real swarm on this machine.

For one session also against one native `generate` call for the whole answer, which needs no word from anybody between
its tokens.
"""

import asyncio
import functools
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from shared import catalog as catalogs
from tests.bench.contest import Contest, Level, Sides
from tests.bench.options import make_parser
from tests.bench.report import print_report
from tests.bench.sides import NATIVE, OURS, PLAIN, Writer, running_writer
from tests.bench.workers import running_worker
from tests.services import Worker
from tests.swarm import Swarm, running_swarm

CATALOG = Path(__file__).parents[2] / "deploy/catalogs/local.toml"


def prompts(count: int) -> list[str]:
    """Questions that differ, one for each user."""
    return [f"Human: What are {number} workers good for?###Assistant:" for number in range(2, count + 2)]


def make_worker(folder: Path, url: str, peers: tuple[str, ...], dtype: str, slots: int) -> Worker:
    """A worker of that swarm."""
    settings: dict[str, Any] = {"peers": peers[0], "dtype": dtype, "slots": slots, "device": "cpu"}
    return Worker(folder / "worker.log", url, CATALOG, **settings)


def make_plain(swarm: tuple[Path, tuple[str, ...], str], dtype: str) -> Writer:
    """The plain loop with a client of its own; swarm: the model's folder, peers and prefix."""
    from tests.bench.plain import join_swarm  # torch takes seconds, and is for that process only

    return join_swarm(*swarm, dtype)


@asynccontextmanager
async def running_sides(swarm: Swarm, dtype: str, slots: int) -> AsyncIterator[Sides]:
    """All of them, with two clients of the swarm."""
    worker = functools.partial(make_worker, peers=swarm.peers, dtype=dtype, slots=slots)
    plain = functools.partial(make_plain, (swarm.model, swarm.peers, swarm.dht_prefix), dtype)
    async with (
        running_writer(plain, PLAIN, NATIVE) as (loop, native),
        running_worker(worker, catalogs.load(CATALOG).default.key) as ours,
    ):
        yield {OURS: ours, PLAIN: loop, NATIVE: native}


async def compare(swarm: Swarm, levels: tuple[int, ...], tokens: int, rounds: int, dtype: str) -> list[Level]:
    """One level after the other."""
    contest = Contest(prompts(max(levels)), tokens, rounds)
    async with running_sides(swarm, dtype, max(levels)) as sides:
        several = {name: side for name, side in sides.items() if name != NATIVE}
        return [await contest.hold(sides if sessions == 1 else several, sessions) for sessions in levels]


def main() -> int:
    """Run it; the exit status."""
    options = make_parser("engine", "Compare with the plain loop on a real swarm.", 64, "float32").parse_args()
    model = catalogs.load(CATALOG).default
    assert model.path
    with running_swarm(CATALOG.parent / model.path, model.dht_prefix or "") as swarm:
        levels = asyncio.run(compare(swarm, options.sessions, options.tokens, options.runs, options.dtype))
    return print_report(options.dtype, levels, options.json)


if __name__ == "__main__":
    sys.exit(main())
