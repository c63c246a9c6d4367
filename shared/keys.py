"""Every key, channel, group and lifetime in Redis, in one place.

All names share one hash tag, so that a cluster keeps a partition on one node. The scripts build no name of their own:
they get the names below, or this prefix, from the broker.
"""

import dataclasses

GROUP = "workers"


@dataclasses.dataclass(frozen=True)
class Timing:
    """The protocol's times, in milliseconds unless named otherwise; Redis' clock decides all of them.

    lease_ms: a job whose worker has not beaten for this long goes to another one; also a worker's own lifetime.
    beat_s, reap_s, check_s: periods of a worker's beat, of its look for lost jobs, of a gateway's look for lost events.
    finished_ms: life of a finished job and its log.
    orphan_ms: a job that no gateway follows for this long is cancelled.
    stall_limit: claims of a job without one new token before it is given up.
    """

    lease_ms: int = 8_000
    beat_s: float = 2.0
    reap_s: float = 1.0
    check_s: float = 2.0
    finished_ms: int = 600_000
    orphan_ms: int = 30_000
    stall_limit: int = 3


class Keys:
    """Names of one partition. (type) content:

    job:J (hash) state, request, lease; log:J (stream) its events; sub:J (set) gateways attached
    ready:MODEL:PRIORITY (stream, group `workers`) ids of jobs that a worker may claim
    queue:MODEL:PRIORITY:TENANT (list), ring:MODEL:PRIORITY (list), waiting (hash) fair queueing before `ready`
    worker:W (hash, expires) liveness, free slots; worker:W:jobs (stream, group `workers`) jobs of sessions it owns
    workers (set), serving:MODEL (set) workers that registered
    session:S (hash), session:S:ids (list) a dialogue and its committed token ids; session:S:turns (list) jobs in line
    sessions (zset) open sessions by expiry; due (zset) unfinished jobs by the time at which something must be done
    dead (stream, bounded) jobs given up
    Channels: gateway:G events of the jobs it follows; control:W words to one worker.
    """

    def __init__(self, tag: str = "p") -> None:
        self.prefix = f"{{{tag}}}:"

    def job(self, job: str) -> str:
        return f"{self.prefix}job:{job}"

    def log(self, job: str) -> str:
        return f"{self.prefix}log:{job}"

    def subscribers(self, job: str) -> str:
        return f"{self.prefix}sub:{job}"

    def ready(self, model: str, priority: str) -> str:
        return f"{self.prefix}ready:{model}:{priority}"

    def worker(self, worker: str) -> str:
        return f"{self.prefix}worker:{worker}"

    def worker_jobs(self, worker: str) -> str:
        return f"{self.prefix}worker:{worker}:jobs"

    def session(self, session: str) -> str:
        return f"{self.prefix}session:{session}"

    def gateway_channel(self, gateway: str) -> str:
        return f"{self.prefix}gateway:{gateway}"

    def control_channel(self, worker: str) -> str:
        return f"{self.prefix}control:{worker}"
