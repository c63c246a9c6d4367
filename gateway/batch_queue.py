"""The line in which batches wait for an RQ worker."""

import asyncio
import contextlib
from typing import Any

from rq import Callback, Queue, Retry
from rq.exceptions import DuplicateJobError
from rq.serializers import JSONSerializer

from shared.link import blocking, translated

NAME = "batches"
RUN, GIVE_UP = "gateway.batch_run.run", "gateway.batch_run.give_up"
# How often a batch is tried again after everything that had it died.
RETRIES = 20
# RQ would stop a job that takes longer. A batch looks at its own clock; this is for one that has none left.
MARGIN_S = 3600
FAILED_LIFE_S = 86_400


def batch_queue(url: str) -> Queue:
    """RQ's queue, over a connection of its own; what it holds is JSON."""
    return Queue(NAME, connection=blocking(url), serializer=JSONSerializer)


class BatchQueue:
    """RQ's queue for a gateway."""

    def __init__(self, url: str) -> None:
        self._queue = batch_queue(url)

    async def add(self, id: str, time_s: int) -> None:
        """Let an RQ worker answer the batch, within that time; one that RQ has already stays as it is.

        Raises BrokerUnavailable: it may be in line or not.
        """
        await asyncio.to_thread(self._add, id, time_s)

    def _add(self, id: str, time_s: int) -> None:
        options: dict[str, Any] = {"job_id": id, "job_timeout": time_s + MARGIN_S, "result_ttl": 0}
        options |= {"failure_ttl": FAILED_LIFE_S, "retry": Retry(max=RETRIES), "on_failure": Callback(GIVE_UP)}
        with translated(), contextlib.suppress(DuplicateJobError):
            self._queue.enqueue(RUN, id, unique=True, **options)
