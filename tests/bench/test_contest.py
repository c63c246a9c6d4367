"""Sides take turns, and what they write is compared."""

import dataclasses
import json
import os
from collections.abc import Sequence

import pytest

from tests.bench.contest import WARM_UP_TOKENS, Contest
from tests.bench.report import print_report
from tests.bench.sides import NATIVE, OURS, PLAIN, Ids

pytestmark = pytest.mark.anyio

PROMPTS = ["one", "two", "three"]


@dataclasses.dataclass
class ScriptedSide:
    """Writes 0, 1, 2 and so on. calls: by all sides, in order; off: what is added for the last user."""

    name: str
    calls: list[tuple[str, int, int]]
    off: int = 0
    lost: int = 0
    pid: int = dataclasses.field(default_factory=os.getpid)

    async def write(self, prompts: Sequence[str], tokens: int) -> list[Ids]:
        self.calls.append((self.name, len(prompts), tokens))
        last = tuple(id + self.off for id in range(tokens - self.lost))
        return [*[tuple(range(tokens))] * (len(prompts) - 1), last]


async def test_sides_take_turns_after_a_warm_up_of_each() -> None:
    # given
    calls: list[tuple[str, int, int]] = []
    sides = {name: ScriptedSide(name, calls) for name in (OURS, PLAIN)}
    # when
    level = await Contest(PROMPTS, tokens=5, rounds=2).hold(sides, 2)
    # then
    warm_up = [(OURS, 2, WARM_UP_TOKENS), (PLAIN, 2, WARM_UP_TOKENS)]
    assert calls == warm_up + [(OURS, 2, 5), (PLAIN, 2, 5)] * 2
    assert {name: len(runs) for name, runs in level.runs.items()} == {OURS: 2, PLAIN: 2}
    assert level.errors == 0


@pytest.mark.parametrize(("off", "lost", "errors"), [(1, 0, 2), (0, 1, 3)])
async def test_answers_that_differ_or_are_short_are_errors(
    off: int, lost: int, errors: int, capsys: pytest.CaptureFixture[str]
) -> None:
    # given: one of two users gets another text in both rounds, or a short one in the warm-up too
    sides = {OURS: ScriptedSide(OURS, []), PLAIN: ScriptedSide(PLAIN, [], off, lost)}
    # when
    level = await Contest(PROMPTS, tokens=5, rounds=2).hold(sides, 2)
    status = print_report("float32", [level], as_json=True)
    # then
    assert level.errors == errors
    assert status == 1
    assert json.loads(capsys.readouterr().out)["levels"][0]["errors"] == errors


async def test_a_table_has_a_line_for_each_level(capsys: pytest.CaptureFixture[str]) -> None:
    # given
    sides = {name: ScriptedSide(name, []) for name in (OURS, PLAIN, NATIVE)}
    contest = Contest(PROMPTS, tokens=5, rounds=1)
    levels = [await contest.hold(sides, 1), await contest.hold({OURS: sides[OURS], PLAIN: sides[PLAIN]}, 3)]
    # when
    status = print_report("float32", levels, as_json=False)
    # then
    _, head, one, three, errors = capsys.readouterr().out.splitlines()
    assert status == 0
    assert head.split()[0] == "sessions"
    assert [line.split()[0] for line in (one, three)] == ["1", "3"]
    assert errors == "wrong answers: 0"
