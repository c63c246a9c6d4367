"""What is in the broker, read key by key: the schema is that of shared.keys.Keys."""

import struct
from collections import Counter
from typing import Any

import redis

from shared.keys import GROUP, Keys
from shared.messages import LogEntry, decode_entry


class Keyspace:
    """A view of one server, for assertions."""

    def __init__(self, client: "redis.Redis") -> None:
        self._client: Any = client
        self._keys = Keys()

    def field(self, job: str, name: str) -> str | None:
        """A field of a job."""
        raw = self._client.hget(self._keys.job(job), name)
        return None if raw is None else str(raw, "utf-8")

    def state(self, job: str) -> str | None:
        """A job's state; None where there is no such job."""
        return self.field(job, "state")

    def epoch(self, job: str) -> str | None:
        """The epoch of a job's lease."""
        return self.field(job, "epoch")

    def last(self, job: str) -> int:
        """The seq of a job's last event, as the job has it."""
        return int(self.field(job, "last") or 0)

    def log(self, job: str) -> list[LogEntry]:
        """A job's log."""
        rows = self._client.xrange(self._keys.log(job))
        return [decode_entry(int(entry.split(b"-")[0]), fields[b"t"], fields[b"e"]) for entry, fields in rows]

    def subscribers(self, job: str) -> set[str]:
        """The gateways that follow a job."""
        return {str(name, "utf-8") for name in self._client.smembers(self._keys.subscribers(job))}

    def entries(self, job: str) -> list[tuple[str, str]]:
        """Where a job is in a stream for workers, and at which worker it is pending ('' where no one has read it)."""
        found = []
        for stream in self._names("ready:*") + self._names("worker:*:jobs"):
            groups = self._client.xinfo_groups(stream)
            rows = self._client.xpending_range(stream, GROUP, "-", "+", 1000) if groups else []
            pending = {row["message_id"]: str(row["consumer"], "utf-8") for row in rows}
            entries = self._client.xrange(stream)
            found += [(stream, pending.get(entry, "")) for entry, fields in entries if fields[b"job"] == job.encode()]
            assert pending.keys() <= {entry for entry, _ in entries}, "pending without an entry"
        return found

    def unfinished(self) -> set[str]:
        """The jobs that are looked at when they are due."""
        return {str(name, "utf-8") for name in self._client.zrange(self._keys.due, 0, -1)}

    def waiting(self) -> dict[str, int]:
        """Jobs in line by tenant, and of all ('*')."""
        counters = self._client.hgetall(f"{self._keys.prefix}waiting")
        return {str(name, "utf-8"): int(count) for name, count in counters.items()}

    def check_lines(self) -> None:
        """Assert that counters are the lengths of lines, and that rings hold those that have one, once each."""
        lengths: Counter[str] = Counter()
        turns_of: dict[str, set[str]] = {}
        for queue in self._names("queue:*"):
            tenant, _, user = queue.rpartition(":")[2].partition(" ")
            ring = queue.rpartition(":")[0].replace("queue:", "ring:")
            lengths[tenant] += self._client.llen(queue)
            turns_of.setdefault(ring, set()).add(tenant)
            turns_of.setdefault(f"{ring}:{tenant}", set()).add(user)
        for turns in self._names("session:*:turns"):
            for job in self._client.lrange(turns, 0, -1):
                lengths[self.field(str(job, "ascii"), "tenant") or ""] += 1
        rings = {
            ring: [str(each, "utf-8") for each in self._client.lrange(ring, 0, -1)] for ring in self._names("ring:*")
        }
        assert {ring: sorted(names) for ring, names in rings.items()} == {
            ring: sorted(names) for ring, names in turns_of.items()
        }
        everybody = {"*": lengths.total()} if lengths else {}
        assert self.waiting() == {**lengths, **everybody}

    def session_ids(self, session: str) -> list[int]:
        """The ids that a session has."""
        joined = b"".join(self._client.lrange(f"{self._keys.session(session)}:ids", 0, -1))
        return list(struct.unpack(f"<{len(joined) // 4}I", joined))

    def running_in(self, session: str) -> str | None:
        """The job whose turn it is in a session."""
        raw = self._client.hget(self._keys.session(session), "running")
        return None if raw is None else str(raw, "ascii")

    def owner_of(self, session: str) -> str | None:
        """The worker that owns a session."""
        raw = self._client.hget(self._keys.session(session), "owner")
        return None if raw is None else str(raw, "utf-8")

    def _names(self, pattern: str) -> list[str]:
        return [str(name, "utf-8") for name in self._client.scan_iter(f"{self._keys.prefix}{pattern}")]
