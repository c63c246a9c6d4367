"""Any order of the broker's operations, lost workers and all, on a real server: what must hold after every step."""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.broker import Broker
from shared.dead import DeadLetters
from shared.errors import Code, CorollaError
from shared.heart import Heart
from shared.keys import Timing
from shared.messages import FinishReason, JobFinished, JobRequest, Token
from shared.records import Append, Appended, Bounds, Claim, Registration, SessionCommit, Submission
from shared.sampling import SamplingParams
from tests.faults.conftest import FULL, SEED
from tests.faults.keyspace import Keyspace
from tests.valkey import Valkey
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)

T = TypeVar("T")

MODEL = "corolla/oracle"
HOUR_MS = 3_600_000
# Of one tenant in a minute, which is far longer than a run of the machine takes.
REQUESTS, TOKENS = 1, 2
DONE = JobFinished(FinishReason.LENGTH)
NAMES = [f"{number:032x}" for number in range(5)]
JOBS = st.sampled_from(NAMES)
WORKERS = st.sampled_from(["w1", "w2", "w3"])
SESSIONS = st.sampled_from(["s1", "s2"])


@dataclasses.dataclass
class Job:
    """What the test knows of a job. tokens: ids that the broker accepted; epoch: of the lease that holds, or ''.

    stalls: claims since the last token. doomed: it may end without a worker's word. unfollowed: it ends with the next
    sweep, unless a gateway follows it. parted: its session was closed, and another one may have that name. dead: it was
    given up. rated: its tokens count when it ends; spent: those that counted already.
    """

    session: str | None
    tenant: str
    rated: bool
    tokens: list[int] = dataclasses.field(default_factory=list)
    epoch: str = ""
    owner: str = ""
    stalls: int = 0
    doomed: bool = False
    unfollowed: bool = False
    parted: bool = False
    dead: bool = False
    done: bool = False
    spent: int = 0

    @property
    def last(self) -> int:
        """The seq of its last event."""
        return len(self.tokens) + self.done

    @property
    def counted(self) -> int:
        """Its tokens that count for its tenant's rate."""
        return self.spent + len(self.tokens) * (self.rated and self.done)

    def release(self) -> None:
        """No lease holds any more."""
        self.epoch = self.owner = ""


class Protocol(RuleBasedStateMachine):
    """Gateways and workers that do anything at any time. Leases and deadlines end by rules, not by the clock."""

    def __init__(self, valkey: Valkey) -> None:
        super().__init__()
        valkey.client.flushall()
        self.client = valkey.client
        self.keyspace = Keyspace(valkey.client)
        self.runner = asyncio.Runner()
        self.broker = Broker(valkey.url, Timing(lease_ms=HOUR_MS, grace_ms=0, orphan_ms=HOUR_MS))
        self.reaper = Broker(valkey.url, Timing(lease_ms=0))
        self.letters = DeadLetters(valkey.url)
        self.url = valkey.url
        self.jobs: dict[str, Job] = {}
        self.leases: list[Claim] = []
        self.commits: dict[str, list[int]] = {}
        self.requests: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()  # of jobs that are forgotten

    def teardown(self) -> None:
        """Drop connections."""
        self.run(self.broker.close())
        self.run(self.reaper.close())
        self.letters.__exit__()
        self.runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What that operation gives."""
        return self.runner.run(work)

    @initialize(sessions=st.lists(st.none() | SESSIONS, max_size=4))
    def begin(self, sessions: list[str | None]) -> None:
        """Most of what can happen needs jobs that run."""
        for session in sessions:
            if session:
                self.open_session(session)
        for name, session in zip(NAMES, sessions, strict=False):
            self.submit(name, "t1", "interactive", session, 6, (0, TOKENS))
        self.claim("w1", 3)

    @rule(
        name=JOBS,
        tenant=st.sampled_from(["t1", "t2", "t3"]),
        priority=st.sampled_from(["interactive", "batch"]),
        session=st.none() | SESSIONS,
        total=st.integers(1, 6),
        rates=st.sampled_from([(0, 0), (REQUESTS, 0), (0, TOKENS)]),
    )
    def submit(
        self, name: str, tenant: str, priority: str, session: str | None, total: int, rates: tuple[int, int]
    ) -> None:
        request = JobRequest(model=MODEL, sampling=SamplingParams(seed=7), prompt="hi", max_new_tokens=3)
        submission = Submission(name, request, "g1", HOUR_MS, tenant, priority=priority, session=session)
        bounds = Bounds(2, total, *rates)
        expected = self.status(name, tenant, session, bounds)
        try:
            status: str | Code = self.run(self.broker.submit(submission, bounds))
        except CorollaError as error:
            status = error.code
        assert status == expected
        if status == "accepted":
            self.jobs[name] = Job(session, tenant, rates[1] > 0)
            self.requests[tenant] += rates[0] > 0

    def status(self, name: str, tenant: str, session: str | None, bounds: Bounds) -> str | Code:
        """What the broker must say to a submission."""
        waiting = self.keyspace.waiting()
        if name in self.jobs:
            return "known"
        if session is not None and session not in self.commits:
            return Code.SESSION_NOT_FOUND
        tokens = self.tokens[tenant] + sum(job.counted for job in self.jobs.values() if job.tenant == tenant)
        if bounds.requests_per_min and self.requests[tenant] >= REQUESTS:
            return Code.RATE
        if bounds.tokens_per_min and tokens >= TOKENS:
            return Code.RATE
        if waiting.get(tenant, 0) >= bounds.tenant:
            return Code.TENANT_BUSY
        return Code.BUSY if waiting.get("*", 0) >= bounds.total else "accepted"

    @rule(worker=WORKERS, free=st.integers(1, 3))
    def claim(self, worker: str, free: int) -> None:
        claims = self.run(self.broker.claim(Registration(worker, (MODEL,), 4), free, 0))
        assert len(claims) <= free
        for each in claims:
            job = self.jobs[each.job]
            assert not job.epoch, "two leases on one job"
            assert not job.doomed
            assert [token.id for token in each.log] == job.tokens
            assert job.stalls < self.broker.timing.stall_limit
            job.epoch, job.owner, job.stalls = each.epoch, worker, job.stalls + 1
            if job.session is not None:
                assert each.session is not None
                assert each.session.ids == self.commits[job.session]
            self.leases.append(each)
        limit = self.broker.timing.stall_limit
        may_end = [job for job in self.jobs.values() if not job.done and (job.doomed or job.stalls == limit)]
        self.see_endings(may_end)
        for job in may_end:
            # Not one that had ended before for another reason, on its last trial.
            job.dead = job.done and not job.doomed

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(),
        shift=st.sampled_from([0, 0, 0, -2, -1, 1]),
        count=st.integers(0, 3),
        ends=st.sampled_from([False, False, True]),
    )
    def append(self, data: st.DataObject, shift: int, count: int, ends: bool) -> None:
        """Under a lease that holds or does not."""
        if count or ends:
            self.write(data.draw(st.sampled_from(self.leases)), shift, count, ends)

    @precondition(lambda self: any(job.epoch and not job.done for job in self.jobs.values()))
    @rule(data=st.data(), ends=st.sampled_from([False, False, False, True]))
    def go_on(self, data: st.DataObject, ends: bool) -> None:
        """Under a lease that holds."""
        held = [lease for lease in self.leases if self.jobs[lease.job].epoch == lease.epoch]
        self.write(data.draw(st.sampled_from(held)), 0, 1, ends)

    def write(self, lease: Claim, shift: int, count: int, ends: bool) -> None:
        """So many tokens, and perhaps the ending, so many places after the end of the log."""
        job = self.jobs[lease.job]
        first = max(job.last + 1 + shift, 1)
        ids = [*range(first, first + count)]
        commit = SessionCommit([len(self.jobs), *ids]) if job.session and ends else None
        tokens = tuple(Token(id, "x") for id in ids)
        expected = self.expected(job, lease.epoch, first, first + count - (not ends), ends)
        (answer,) = self.run(
            self.broker.append([Append(lease.job, lease.epoch, first, tokens, DONE if ends else None, commit)])
        )
        assert (answer.status, answer.last) == (expected.status, expected.last)
        if answer.status == "ok" and answer.last > job.last:
            job.tokens += ids
            job.stalls = 0 if ids else job.stalls
            job.done = ends
            if commit and not job.parted and job.session in self.commits:
                self.commits[job.session] += commit.ids

    def expected(self, job: Job, epoch: str, first: int, upto: int, ends: bool) -> Appended:
        """What the broker must say to an append."""
        if job.epoch != epoch:
            return Appended("fenced", job.last, False)
        if job.done:
            return Appended("ok" if ends and upto == job.last else "fenced", job.last, False)
        if upto > job.last and first != job.last + 1:
            return Appended("gap", job.last, False)
        return Appended("ok", max(upto, job.last), False)

    @rule(worker=WORKERS)
    def beat(self, worker: str) -> None:
        # Its own leases, and any that are gone: nobody beats for one that another worker holds.
        jobs = self.jobs
        known = [each for each in self.leases if jobs[each.job].epoch != each.epoch or jobs[each.job].owner == worker]
        leases = [(lease.job, lease.epoch) for lease in known]
        heart = Heart(self.url, Registration(worker, (MODEL,), 4), self.broker.timing)
        answer = heart.beat(leases, 2)
        heart.close()
        running = {(name, job.epoch) for name, job in self.jobs.items() if not job.done}
        assert answer.fenced == {name for name, epoch in leases if (name, epoch) not in running}

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        job = self.jobs[lease.job]
        self.run(self.broker.requeue(Registration("w1", (MODEL,), 4), [(lease.job, lease.epoch)]))
        if job.epoch == lease.epoch and not job.done:
            job.stalls = max(job.stalls - 1, 0)
            job.release()

    @rule(worker=WORKERS, has_drained=st.booleans())
    def leave(self, worker: str, has_drained: bool = False) -> None:
        self.run(self.broker.leave(worker, has_drained))
        held = [job for job in self.jobs.values() if job.owner == worker and not job.done]
        for job in held:
            job.stalls = max(job.stalls - has_drained, 0)
        self.lose(held)

    @rule(old=WORKERS, new=WORKERS)
    def take_over(self, old: str, new: str) -> None:
        """Others go on where a worker left, who may still be heard."""
        self.leave(old)
        self.claim(new, 3)

    @rule(times=st.integers(1, 4))
    def kill_workers(self, times: int) -> None:
        """What waits kills every worker that tries it, before its first token."""
        for _ in range(times):
            self.claim("w1", 3)
            self.leave("w1")
        self.claim("w1", 3)

    @rule(worker=WORKERS)
    def die(self, worker: str) -> None:
        """The worker's life runs out, and all leases that were not renewed."""
        self.client.delete(self.broker.keys.worker(worker))
        self.run(self.reaper.reap())
        self.lose(self.jobs.values())

    def lose(self, jobs: Iterable[Job]) -> None:
        """The leases of those that run are gone."""
        for job in jobs:
            if not job.done:
                job.release()

    @rule(name=JOBS)
    def cancel(self, name: str) -> None:
        self.run(self.broker.cancel(name))
        self.doom([name])

    @rule(name=JOBS, gateway=st.sampled_from(["g1", "g2"]))
    def detach(self, name: str, gateway: str) -> None:
        others = self.keyspace.subscribers(name) - {gateway}
        self.run(self.broker.detach(name, gateway))
        if name in self.jobs and not self.jobs[name].done and not others:
            self.jobs[name].unfollowed = True

    @rule(name=JOBS)
    def follow(self, name: str) -> None:
        """A gateway says that it follows the job."""
        found = self.run(self.broker.positions("g1", [name]))[name]
        job = self.jobs.get(name)
        assert (found.state, found.last) == ((self.keyspace.state(name), job.last) if job else ("gone", 0))
        if job:
            job.unfollowed = False

    @rule(name=JOBS)
    def forsake(self, name: str) -> None:
        """No gateway has followed the job for long, and somebody sweeps: it ends the next time."""
        if name in self.jobs and not self.jobs[name].done:
            ends = self.jobs[name].unfollowed or self.jobs[name].doomed
            self.client.zadd(self.broker.keys.due, {name: 1})
            self.sweep()
            self.jobs[name].unfollowed = not ends

    @rule(name=JOBS)
    def try_again(self, name: str) -> None:
        """An operator lets workers go on with a job that was given up."""
        job = self.jobs.get(name)
        possible = job is not None and job.dead and (job.session is None or job.session in self.commits)
        assert self.letters.requeue(name, HOUR_MS) == possible
        if job and possible:
            job.spent, job.rated = job.counted, False
            job.dead = job.done = job.unfollowed = job.parted = False
            job.stalls = 0
            job.release()

    @rule(name=JOBS)
    def drop(self, name: str) -> None:
        """An operator forgets a job that was given up."""
        job = self.jobs.get(name)
        assert self.letters.drop(name) == (job is not None and job.dead)
        if job and job.dead:
            self.tokens[job.tenant] += job.counted
            self.leases = [lease for lease in self.leases if lease.job != name]
            del self.jobs[name]

    def sweep(self) -> None:
        """Somebody looks for jobs that are due: those that are cancelled or that nobody follows end."""
        self.run(self.broker.sweep())
        for name, job in self.jobs.items():
            if not job.done and (job.doomed or job.unfollowed):
                assert self.keyspace.state(name) == "done"
                job.done = True

    @rule(name=JOBS, after=st.integers(0, 4))
    def attach(self, name: str, after: int) -> None:
        found = self.run(self.broker.attach(name, "g2", after))
        assert (found is None) == (name not in self.jobs)
        if found:
            assert found.last == self.jobs[name].last
            got = [token.id for entry in found.entries for token in entry.tokens if entry.last > after]
            assert got == self.jobs[name].tokens[len(self.jobs[name].tokens) - len(got) :]

    @rule(name=JOBS)
    def expire(self, name: str) -> None:
        """The job's deadline comes, and somebody sweeps."""
        if name in self.jobs and not self.jobs[name].done:
            self.client.hset(self.broker.keys.job(name), "deadline", 1)
            self.client.zadd(self.broker.keys.due, {name: 1})
            self.jobs[name].doomed = True
            self.sweep()
            assert self.jobs[name].done

    @rule(session=SESSIONS)
    def open_session(self, session: str) -> None:
        self.run(self.broker.open_session(session, MODEL, 100, HOUR_MS, 9))
        self.commits.setdefault(session, [])

    @rule(session=SESSIONS)
    def close_session(self, session: str) -> None:
        self.run(self.broker.close_session(session))
        if self.commits.pop(session, None) is not None:
            # Those of a session before it that had the same name are doomed already.
            for job in self.jobs.values():
                job.parted |= job.session == session
            self.doom([name for name, job in self.jobs.items() if job.session == session and not job.doomed])
            self.see_endings(self.jobs.values())

    def doom(self, names: Iterable[str]) -> None:
        """These are to end: at once where they wait, at their worker's next token where they run."""
        for name in names:
            job = self.jobs.get(name)
            if job and not job.done:
                job.doomed = True
                self.see_endings([job])
                assert job.done == (not job.epoch)

    def see_endings(self, jobs: Iterable[Job]) -> None:
        """Those that may have ended without a worker's word, and have."""
        names = {id(job): name for name, job in self.jobs.items()}
        for job in jobs:
            if not job.done:
                job.done = self.keyspace.state(names[id(job)]) == "done"

    @invariant()
    def every_log_is_whole(self) -> None:
        """It has the tokens that were accepted, in order, and one ending where the job is done; `last` is its tail."""
        for name, job in self.jobs.items():
            log = self.keyspace.log(name)
            assert [token.id for entry in log for token in entry.tokens] == job.tokens
            assert [entry.last for entry in log if entry.ending] == ([job.last] if job.done else [])
            assert [entry.first for entry in log] == [1, *(entry.last + 1 for entry in log)][: len(log)]
            assert self.keyspace.last(name) == (log[-1].last if log else 0) == job.last

    @invariant()
    def dead_letters_are_those_given_up(self) -> None:
        """And each of them can be listed."""
        assert {letter.job for letter in self.letters.all()} == {name for name, job in self.jobs.items() if job.dead}

    @invariant()
    def one_epoch_holds(self) -> None:
        """A running job has one lease, one entry, and that is pending at its owner; a job that is done has none."""
        for name, job in self.jobs.items():
            places = self.keyspace.entries(name)
            if job.done:
                assert (self.keyspace.state(name), places) == ("done", [])
            elif job.epoch:
                assert (self.keyspace.state(name), self.keyspace.epoch(name)) == ("running", job.epoch)
                assert [consumer for _, consumer in places] == [job.owner]
            else:
                assert self.keyspace.state(name) in ("turn", "waiting", "ready")
                assert len(places) == (self.keyspace.state(name) == "ready")

    @invariant()
    def counters_are_lengths(self) -> None:
        """Who waits is in one line, and counted; tenants in the ring are those that have a line."""
        self.keyspace.check_lines()
        assert self.keyspace.unfinished() == {name for name, job in self.jobs.items() if not job.done}

    @invariant()
    def sessions_are_what_was_committed(self) -> None:
        """Every open session has the ids of its finished jobs, in order, and at most one job that is its turn."""
        for session, ids in self.commits.items():
            assert self.keyspace.session_ids(session) == ids
            running = self.keyspace.running_in(session)
            if running is not None:
                assert (self.jobs[running].session, self.jobs[running].done) == (session, False)


def test_any_order_of_operations(valkey: Valkey) -> None:
    # A server that has just started takes no leases away.
    until(lambda: valkey.client.info("server")["uptime_in_seconds"] > 0)

    @seed(SEED)
    class OnThisServer(Protocol):
        def __init__(self) -> None:
            super().__init__(valkey)

    run_state_machine_as_test(
        OnThisServer,
        settings=settings(
            max_examples=500 if FULL else 40,
            stateful_step_count=60 if FULL else 40,
            deadline=None,
            database=None,
            # To find the shortest way to a failure takes minutes.
            phases=[Phase.generate, Phase.shrink] if FULL else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
