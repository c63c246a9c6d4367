"""Sides that write the same, in turn, so that whatever else the machine does meets all of them alike."""

import dataclasses
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from tests.bench.cpu import cpu_s
from tests.bench.sides import Ids, Side

WARM_UP_TOKENS = 4

Sides = Mapping[str, Side]


@dataclasses.dataclass(frozen=True)
class Run:
    """One side's answers to all users.

    What disturbs the figures: others_percent is the CPU time of the sides that had nothing to do, of one core;
    client_percent that of this process, of the side's.
    """

    tokens_per_s: float
    cpu_ms_per_token: float
    others_percent: float
    client_percent: float


@dataclasses.dataclass
class Level:
    """What came of one number of users. runs: by side, one for each round; errors: answers that were wrong."""

    sessions: int
    tokens: int
    runs: dict[str, list[Run]]
    errors: int = 0

    def values(self, side: str, what: str) -> list[float]:
        """One figure of every run of that side."""
        return [dataclasses.asdict(run)[what] for run in self.runs[side]]

    def ratios(self, side: str, other: str, what: str) -> list[float]:
        """A figure of one side over that of another, in each round."""
        return [mine / its for mine, its in zip(self.values(side, what), self.values(other, what), strict=True)]


@dataclasses.dataclass(frozen=True)
class Contest:
    """prompts: those of the users, as many as there may be. tokens: to write after each; rounds: of each level."""

    prompts: Sequence[str]
    tokens: int
    rounds: int

    async def hold(self, sides: Sides, sessions: int) -> Level:
        """Let them write for so many users, each side once in every round."""
        level = Level(sessions, self.tokens, {name: [] for name in sides})
        prompts = self.prompts[:sessions]
        for side in sides.values():
            level.errors += _wrong(await side.write(prompts, WARM_UP_TOKENS), WARM_UP_TOKENS)
        first: list[Ids] = []
        for number in range(1, self.rounds + 1):
            for name, side in sides.items():
                print(f"{sessions} sessions, round {number}, {name}", file=sys.stderr, flush=True)
                run, answers = await _measure(side, sides.values(), prompts, self.tokens)
                first = first or answers
                level.errors += _wrong(answers, self.tokens, first)
                level.runs[name].append(run)
        return level


def _wrong(answers: Sequence[Ids], tokens: int, expected: Sequence[Ids] = ()) -> int:
    """How many answers have another length, or another text than expected."""
    return sum(
        len(answer) != tokens or (bool(expected) and answer != expected[user]) for user, answer in enumerate(answers)
    )


async def _measure(side: Side, sides: Iterable[Side], prompts: Sequence[str], tokens: int) -> tuple[Run, list[Ids]]:
    others = {each.pid for each in sides} - {side.pid}
    before = _clocks_s(side, others)
    answers = await side.write(prompts, tokens)
    took_s, used_s, idle_s, client_s = (
        after - begin for after, begin in zip(_clocks_s(side, others), before, strict=True)
    )
    made = max(sum(map(len, answers)), 1)
    return Run(made / took_s, 1000 * used_s / made, 100 * idle_s / took_s, 100 * client_s / used_s), answers


def _clocks_s(side: Side, others: Iterable[int]) -> tuple[float, float, float, float]:
    """The time, and the CPU time of the side, of other processes, and of this one."""
    return time.monotonic(), cpu_s(side.pid), sum(map(cpu_s, others)), time.process_time()


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Median, least and most of some figures, under that name."""
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}
