"""What lives at one moment, and what waits, as the broker tells it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from shared.records import Registration
from shared.reports import Report, decode_report


@dataclasses.dataclass(frozen=True)
class LiveWorker:
    """A worker. waiting: jobs of sessions that it owns, which wait for it alone."""

    who: Registration
    free: int
    report: Report
    waiting: int


@dataclasses.dataclass(frozen=True)
class Overview:
    """waiting: jobs that no worker runs yet; by model: those that wait for any worker."""

    gateways: tuple[str, ...]
    workers: tuple[LiveWorker, ...]
    waiting: int
    waiting_by_model: dict[str, int]


def read_overview(models: Sequence[str], answer: Any) -> Overview:
    """The answer of the script `overview` for these models."""
    gateways, workers, by_model, waiting = answer
    return Overview(
        tuple(sorted(str(name, "utf-8") for name in gateways)),
        tuple(sorted(map(_live_worker, workers), key=lambda worker: worker.who.worker)),
        waiting,
        dict(zip(models, by_model, strict=True)),
    )


def _live_worker(row: Any) -> LiveWorker:
    name, models, slots, free, report, waiting = row
    who = Registration(str(name, "utf-8"), tuple(str(models, "utf-8").split()), slots)
    return LiveWorker(who, free, decode_report(report), waiting)
