"""What a broker has done, by its own counters."""

import dataclasses
from typing import Any

import redis


@dataclasses.dataclass(frozen=True)
class Work:
    """calls: scripts that clients ran; commands: all that were executed, those in scripts included; received, sent:
    bytes; cpu_us: CPU time of the thread that does it."""

    calls: float
    commands: float
    received: float
    sent: float
    cpu_us: float

    def __sub__(self, other: "Work") -> "Work":
        return self._with(other, -1.0)

    def less(self, other: "Work", times: float) -> "Work":
        """Without so many times the other."""
        return self._with(other, -times)

    def over(self, number: float) -> "Work":
        """One share of so many."""
        return Work(*(mine / number for mine in dataclasses.astuple(self)))

    def _with(self, other: "Work", factor: float) -> "Work":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Work(*(mine + factor * its for mine, its in pairs))


def work(client: "redis.Redis") -> Work:
    """All that it has done since it started; asking counts as well."""
    info: Any = client.info()
    calls: Any = client.info("commandstats")
    return Work(
        calls.get("cmdstat_evalsha", {}).get("calls", 0),
        sum(each["calls"] for each in calls.values()),
        info["total_net_input_bytes"],
        info["total_net_output_bytes"],
        1e6 * (info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"]),
    )


def memory(client: "redis.Redis", pattern: str) -> tuple[int, int]:
    """How many keys there are whose names look like that, and their bytes."""
    keys = list(client.scan_iter(pattern, count=1000))
    return len(keys), sum(client.memory_usage(key, samples=0) or 0 for key in keys)
