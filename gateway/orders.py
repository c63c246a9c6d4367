"""A job as an endpoint asks for it, and what it hears of it besides log entries."""

import dataclasses
from typing import Literal

from shared.messages import JobRequest

Priority = Literal["interactive", "batch"]


@dataclasses.dataclass(frozen=True)
class Caller:
    """Who asks. account: the id of the API key that came with the request, empty where no keys are needed."""

    account: str
    address: str

    @property
    def tenant(self) -> str:
        """Whose turns, bounds and rates a request counts for."""
        return self.account or self.address


NOBODY = Caller("", "-")


@dataclasses.dataclass(frozen=True)
class Order:
    """A job to run.

    request: None goes on with a job that was submitted elsewhere, after the seq `after`.
    caller: whose job it is. user: of the caller's, who take turns in the queue within the caller's own. resumable: a
    reader who leaves may come back, here or at another gateway, so the job runs on for a while. progress: tell the
    place in the queue, and now and then that the job lives. note, turns, prompts: see Submission.
    """

    job: str
    request: JobRequest | None
    session: str | None = None
    user: str = ""
    after: int = 0
    resumable: bool = False
    progress: bool = False
    note: bytes = b""
    turns: int = 0
    prompts: int = 1
    caller: Caller = NOBODY
    priority: Priority = "interactive"


class Orders:
    """Makes the orders of one request. The first counts for all of its prompts: it is let in as a whole, or not."""

    def __init__(self, caller: Caller, user: str, prompts: int) -> None:
        self._caller = caller
        self._user = user
        self._uncounted = prompts

    def make(self, job: str, request: JobRequest, resumable: bool = False, note: bytes = b"") -> Order:
        """The next one."""
        prompts, self._uncounted = self._uncounted, 0
        user, caller = self._user, self._caller
        return Order(job, request, user=user, resumable=resumable, note=note, prompts=prompts, caller=caller)


@dataclasses.dataclass(frozen=True)
class Queued:
    """The job is alive, and `ahead` is its place in the queue; 0: it does not wait there."""

    ahead: int
