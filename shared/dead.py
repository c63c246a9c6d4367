"""Jobs that were given up because every worker that tried them failed: for an operator."""

from typing import Self

from shared.keys import Keys, Timing
from shared.link import SyncLink
from shared.records import DeadLetter

ANSWER_TIMEOUT_S = 5.0


class DeadLetters:
    """The dead letters of one broker, over a blocking connection. Every operation may raise BrokerUnavailable."""

    def __init__(self, url: str, timing: Timing | None = None, keys: Keys | None = None) -> None:
        self._timing = timing or Timing()
        self._keys = keys or Keys()
        self._link = SyncLink(url, self._keys.prefix, ANSWER_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()

    def all(self) -> list[DeadLetter]:
        """Those that can still be tried again, the oldest first."""
        rows = self._link.run("dead", [self._keys.dead])
        return [
            DeadLetter(
                str(job, "utf-8"), at_ms, str(model, "utf-8"), str(priority, "utf-8"), str(tenant, "utf-8"), *counts
            )
            for job, at_ms, model, priority, tenant, *counts in rows
        ]

    def requeue(self, job: str, deadline_ms: int) -> bool:
        """Let workers try it again, from its last token on, for so long; False where it is none of these."""
        keys = [self._keys.job(job), self._keys.log(job), self._keys.dead, self._keys.due]
        return bool(self._link.run("requeue_dead", keys, job, deadline_ms, self._timing.finished_ms))

    def drop(self, job: str) -> bool:
        """Forget it, its prompt at once; False where it is none of these."""
        return bool(self._link.run("drop_dead", [self._keys.job(job), self._keys.log(job), self._keys.dead]))
