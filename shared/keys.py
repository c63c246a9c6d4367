"""Every key, channel, group and lifetime in Redis, in one place.

All names share one hash tag, so that a cluster keeps a partition on one node. The scripts derive further names from the
same prefix, by the schema that `Keys` documents.
"""

import dataclasses

GROUP = "workers"
LANES = ("resumed", "interactive", "batch")


@dataclasses.dataclass(frozen=True)
class Timing:
    """The protocol's times; Redis' clock decides about all leases and deadlines.

    lease_ms: a job whose worker has not beaten for this long goes to another one; also a worker's own lifetime.
    beat_s, reap_s, check_s: periods of a worker's beat, of its look for lost jobs, of a gateway's look for lost events.
    finished_ms: life of a finished job and its log.
    orphan_ms: a job that no gateway follows for this long, and for grace_ms after that, is given up.
    dead_ms: life of the request of a job that was given up, so that an operator can try it again.
    grace_ms: a worker has this long to end a late job by itself, and a gateway to follow one that nobody does.
    stall_limit: claims of a job without one new token before it is given up.
    """

    lease_ms: int = 8_000
    beat_s: float = 2.0
    reap_s: float = 1.0
    check_s: float = 2.0
    finished_ms: int = 600_000
    dead_ms: int = 86_400_000
    orphan_ms: int = 30_000
    grace_ms: int = 5_000
    stall_limit: int = 3


class Keys:
    """Names of one partition. Name (type): content.

    job:J (hash): state (turn, waiting, ready, running, done), model, priority, tenant, user, session, request,
        submitted, deadline, last seq, note, epoch, owner, claims, stalls (claims since the last new token), when it was
        started last, cancelled, unfollowed, its stream and entry there, dead (its entry there), account, token_ms (see
        rate)
    log:J (stream): entry `<last seq>-0` with t (tokens) and e (ending); sub:J (set): gateways attached
    ready:MODEL:LANE (stream, group workers): ids of jobs that any worker may claim, by lane: resumed work first
    queue:MODEL:PRIORITY:TENANT USER (list): jobs; ring:MODEL:PRIORITY:TENANT (list): its users who have some, in the
        order of their turns; ring:MODEL:PRIORITY (list): tenants likewise; waiting (hash): tenant or * → number of jobs
    worker:W (hash, expires): free and all slots, its last report, round (of claims), trial (a job that may be what its
        last worker died of); worker:W:jobs (stream, group workers): jobs of sessions it owns
    workers (hash): worker → its models; serving:MODEL (set): workers
    session:S (hash): model, max_length, idle_ms, account, owner, running job, number of jobs ended, held;
        session:S:ids (list): packed token ids, one element a turn; session:S:turns (list): jobs in line
    gateways (zset): gateways by the time until which they count as live
    reaped (string, expires): somebody has just looked for lost jobs
    sessions (zset): open sessions by expiry; due (zset): unfinished jobs by the time at which they must be looked at
    dead (stream, bounded): ids of jobs given up; pace (hash): model → mean time of its jobs, ms
    file:F, batch:B (hash): body (JSON) and version of a record; owned:KIND:OWNER (zset): ids by creation
    RQ's own keys, for batches under way, begin with `rq:`.
    rate:requests:TENANT, rate:tokens:TENANT (string): when what it spent is made up for
    Channels: gateway:G events of the jobs it follows; control:W words to one worker.
    """

    def __init__(self, tag: str = "p") -> None:
        self.prefix = f"{{{tag}}}:"
        self.dead = f"{self.prefix}dead"
        self.due = f"{self.prefix}due"
        self.sessions = f"{self.prefix}sessions"
        self.workers = f"{self.prefix}workers"
        self.gateways = f"{self.prefix}gateways"

    def job(self, job: str) -> str:
        return f"{self.prefix}job:{job}"

    def log(self, job: str) -> str:
        return f"{self.prefix}log:{job}"

    def subscribers(self, job: str) -> str:
        return f"{self.prefix}sub:{job}"

    def ready(self, model: str, lane: str) -> str:
        return f"{self.prefix}ready:{model}:{lane}"

    def serving(self, model: str) -> str:
        return f"{self.prefix}serving:{model}"

    def worker(self, worker: str) -> str:
        return f"{self.prefix}worker:{worker}"

    def worker_jobs(self, worker: str) -> str:
        return f"{self.prefix}worker:{worker}:jobs"

    def session(self, session: str) -> str:
        return f"{self.prefix}session:{session}"

    def record(self, kind: str, id: str) -> str:
        return f"{self.prefix}{kind}:{id}"

    def records(self, kind: str, owner: str) -> str:
        return f"{self.prefix}owned:{kind}:{owner}"

    def gateway_channel(self, gateway: str) -> str:
        return f"{self.prefix}gateway:{gateway}"

    def control_channel(self, worker: str) -> str:
        return f"{self.prefix}control:{worker}"
