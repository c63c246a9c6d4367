"""What the broker may hold while nothing is under way."""

import re
from collections.abc import Iterable
from typing import Any

import redis

from tests.services import Worker

ALLOWED = re.compile(
    r"\{p\}:(job:\w{32}|log:\w{32}|pace|ready:.*|workers|gateways|reaped|serving:.*|key:.*|file:.*|batch:.*|owned:.*)|rq:.*"
)
WORKERS = re.compile(r"\{p\}:worker:(?P<name>[^:]+)(:jobs)?")


def leftovers(client: "redis.Redis", workers: Iterable[Worker]) -> set[str]:
    """Keys that a system at rest does not hold, jobs that have not ended, workers that do not live, and entries that
    are pending."""
    living = {worker.registered for worker in workers if worker.runs}
    found = set()
    for name in (str(each, "utf-8") for each in client.scan_iter()):
        if not _is_at_rest(client, name, living):
            found.add(name)
        if ":ready:" in name or name.endswith(":jobs"):
            found |= {f"{name}: pending"} if _has_pending(client, name) else set()
    return found


def _is_at_rest(client: Any, name: str, living: set[str]) -> bool:
    if owner := WORKERS.fullmatch(name):
        return owner["name"] in living
    if name == "{p}:workers":
        return {str(each, "utf-8") for each in client.hkeys(name)} <= living
    if name.startswith("{p}:serving:"):
        return {str(each, "utf-8") for each in client.smembers(name)} <= living
    if name.startswith("{p}:job:"):
        return client.hget(name, "state") in (b"done", None)
    return ALLOWED.fullmatch(name) is not None


def _has_pending(client: Any, stream: str) -> bool:
    try:
        return bool(client.xpending(stream, "workers")["pending"])
    except redis.ResponseError:  # no group: nobody has read it yet
        return False


def spoiled(client: "redis.Redis") -> dict[str, list[int]]:
    """Jobs that are done and whose logs have not one ending as their last event, with the seqs of the endings."""
    found = {}
    reader: Any = client
    for key in reader.scan_iter("{p}:job:*"):
        job = str(key, "ascii").removeprefix("{p}:job:")
        state, last = reader.hmget(key, "state", "last")
        if state != b"done":
            continue
        entries = reader.xrange(f"{{p}}:log:{job}")
        endings = [int(entry.split(b"-")[0]) for entry, fields in entries if fields[b"e"]]
        if endings != [int(last)]:
            found[job] = endings
    return found


def forget(client: "redis.Redis") -> None:
    """Drop the jobs that are done."""
    for key in client.scan_iter("{p}:job:*"):
        if client.hget(key, "state") == b"done":
            client.delete(key, key.replace(b":job:", b":log:"))
