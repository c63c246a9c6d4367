"""What a benchmark prints: a table, or one JSON object."""

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from typing import Any

from tests.bench.contest import Level, spread
from tests.bench.sides import NATIVE, OURS, PLAIN

PACKAGES = ("torch", "transformers", "petals", "hivemind")
COLUMNS = (
    "tokens_per_s",
    "plain_tokens_per_s",
    "tokens_per_s_ratio",
    "cpu_ms_per_token",
    "plain_cpu_ms_per_token",
    "cpu_ratio",
    "native_tokens_per_s",
    "native_ratio",
)
WIDTH = 24


@dataclasses.dataclass(frozen=True)
class Report:
    """The levels of a benchmark, and in which number format its head computed."""

    dtype: str
    levels: tuple[dict[str, Any], ...]

    @property
    def errors(self) -> int:
        """Answers that were wrong."""
        return sum(level["errors"] for level in self.levels)

    def as_json(self) -> str:
        """One object."""
        head = {"cores": len(os.sched_getaffinity(0)), "dtype": self.dtype, "versions": versions()}
        return json.dumps(head | {"levels": self.levels})

    def as_table(self) -> str:
        """Median (least .. most) for people to read."""
        known = ", ".join(f"{name} {version}" for name, version in versions().items())
        names = [name for name in COLUMNS if any(name in level for level in self.levels)]
        lines = [f"{len(os.sched_getaffinity(0))} cores, {self.dtype}, {known}"]
        lines.append("sessions" + "".join(f"{name:>{WIDTH}}" for name in names))
        lines += [f"{level['sessions']:>8}" + "".join(_cell(level, name) for name in names) for level in self.levels]
        lines.append(f"wrong answers: {self.errors}")
        return "\n".join(lines)


def summarize(level: Level) -> dict[str, Any]:
    """A level as it is printed: its median round, and the least and the most."""
    summary: dict[str, Any] = {"sessions": level.sessions, "tokens": level.tokens, "errors": level.errors}
    for what in ("tokens_per_s", "cpu_ms_per_token"):
        summary |= spread(what, level.values(OURS, what)) | spread(f"plain_{what}", level.values(PLAIN, what))
    summary |= spread("tokens_per_s_ratio", level.ratios(OURS, PLAIN, "tokens_per_s"))
    summary |= spread("cpu_ratio", level.ratios(OURS, PLAIN, "cpu_ms_per_token"))
    if NATIVE in level.runs:
        summary |= spread("native_tokens_per_s", level.values(NATIVE, "tokens_per_s"))
        summary |= spread("native_ratio", level.ratios(OURS, NATIVE, "tokens_per_s"))
    for share in ("others_percent", "client_percent"):
        summary[share] = max(value for side in level.runs for value in level.values(side, share))
    return summary


def versions() -> dict[str, str]:
    """Of the interpreter, and of the packages that matter."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def _cell(level: dict[str, Any], name: str) -> str:
    if name not in level:
        return " " * WIDTH
    median, least, most = (_short(level[each]) for each in (name, f"{name}_min", f"{name}_max"))
    return f" {f'{median} ({least}..{most})':>{WIDTH - 1}}"


def _short(figure: float) -> str:
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}"


def print_report(dtype: str, levels: Iterable[Level], as_json: bool) -> int:
    """Print it; the exit status of the benchmark."""
    report = Report(dtype, tuple(map(summarize, levels)))
    print(report.as_json() if as_json else report.as_table())
    return int(report.errors > 0)
