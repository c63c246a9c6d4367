"""What the broker's operations take and give."""

import dataclasses

from shared.errors import Code, CorollaError
from shared.messages import Ending, JobRequest, LogEntry, Token


class Busy(CorollaError):
    """A job was refused: its tenant (TENANT_BUSY) or everybody (BUSY) has `depth` jobs waiting already, or it came too
    soon after others of its tenant (RATE).

    wait_ms: until another attempt may do: how long the jobs before it take, by the mean time of the last ones; 0 where
    that is not known.
    """

    def __init__(self, code: Code, depth: int, wait_ms: int = 0) -> None:
        texts = {
            Code.TENANT_BUSY: f"You have {depth} requests waiting already, please try again later",
            Code.BUSY: f"There are {depth} requests waiting already, please try again later",
            Code.RATE: "You have used up what you may ask for in a minute, please try again later",
        }
        super().__init__(code, texts[code])
        self.depth = depth
        self.wait_ms = wait_ms


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Jobs that may wait at once, of one tenant and of all; what one tenant may ask for and be given in a minute, where
    0 is any number."""

    tenant: int = 256
    total: int = 1024
    requests_per_min: int = 0
    tokens_per_min: int = 0


@dataclasses.dataclass(frozen=True)
class Submission:
    """A job to accept. id: 32 hex digits, chosen by the gateway; deadline_ms: from now. note: for whoever finds the job
    by its id, at any gateway, as long as it is known. account: whose it is, where callers have accounts.

    tenant: who takes turns with other tenants, and whose bounds and rates it counts for; has no spaces. user: who takes
    turns with the tenant's other users within these. turns: the session's jobs whose end its client has seen. prompts:
    how many must be let in: the first job of a request counts for all of its prompts, and the others for none by the
    rates, so that these are not refused after that.
    """

    id: str
    request: JobRequest
    gateway: str
    deadline_ms: int
    tenant: str = "-"
    user: str = ""
    priority: str = "interactive"
    session: str | None = None
    note: bytes = b""
    account: str = ""
    turns: int = 0
    prompts: int = 1


@dataclasses.dataclass(frozen=True)
class Attached:
    """A job's state (turn, waiting, ready, running, done), the seq of its last event, and the events asked for."""

    state: str
    last: int
    entries: tuple[LogEntry, ...]


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a job is: its state or "gone", the seq of its last event, its place in the queue (0: not waiting)."""

    state: str
    last: int
    ahead: int


@dataclasses.dataclass(frozen=True)
class Published:
    """An entry of a followed job's log, as it was written."""

    job: str
    entry: LogEntry


@dataclasses.dataclass(frozen=True)
class Missed:
    """An event of a followed job that was not read: nobody had room for it, or this version does not understand it. The
    log has it."""

    job: str


@dataclasses.dataclass(frozen=True)
class Gap:
    """The subscription was (re)made: anything may have been missed before."""


@dataclasses.dataclass(frozen=True)
class SessionInfo:
    """An open session; max_length in tokens. turns: its jobs that have ended."""

    id: str
    model: str
    max_length: int
    turns: int = 0


@dataclasses.dataclass(frozen=True)
class Registration:
    """A worker, the keys of the models it serves, and how many jobs it runs at a time."""

    worker: str
    models: tuple[str, ...]
    slots: int


@dataclasses.dataclass(frozen=True)
class SessionSnapshot:
    """A session as its next job finds it. ids: committed; held: how many of the last have text not yet shown."""

    id: str
    max_length: int
    ids: list[int]
    held: int


@dataclasses.dataclass(frozen=True)
class Claim:
    """A job that this worker now holds under `epoch`; log: tokens that were emitted before. waited_ms: from its
    submission to its first claim; None at later ones."""

    job: str
    epoch: str
    request: JobRequest
    remaining_ms: int
    log: tuple[Token, ...]
    session: SessionSnapshot | None
    waited_ms: int | None = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True)
class SessionCommit:
    """What a finished job adds to its session: ids, and how many of the last have text not yet shown."""

    ids: list[int]
    held: int = 0


@dataclasses.dataclass(frozen=True)
class Append:
    """Events for a job's log, from seq `first` on."""

    job: str
    epoch: str
    first: int
    tokens: tuple[Token, ...]
    ending: Ending | None = None
    commit: SessionCommit | None = None


@dataclasses.dataclass(frozen=True)
class Appended:
    """What became of an Append: ok; gap (the log ends at `last`: send again from there); fenced (the lease is lost);
    gone (the job is unknown). cancelled: the job is to end now."""

    status: str
    last: int
    cancelled: bool


@dataclasses.dataclass(frozen=True)
class DeadLetter:
    """A job that was given up. at_ms: when, Unix time; tokens: how many it had; claims: how often it was begun."""

    job: str
    at_ms: int
    model: str
    priority: str
    tenant: str
    tokens: int
    claims: int


@dataclasses.dataclass(frozen=True)
class CancelJob:
    """Word to a worker: end this job."""

    job: str


@dataclasses.dataclass(frozen=True)
class CloseSession:
    """Word to a worker: free what you keep for this session."""

    session: str


@dataclasses.dataclass(frozen=True)
class Beat:
    """The answer to a beat: jobs whose lease is lost, and jobs that are to end."""

    fenced: frozenset[str]
    cancelled: frozenset[str]
