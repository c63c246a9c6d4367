"""A worker's signs of life, and its last one."""

from collections.abc import Iterable

from shared.keys import Keys, Timing
from shared.link import SyncLink
from shared.records import Beat, Registration
from shared.reports import Report, encode_report

NOTHING = Report()


class Heart:
    """A worker's beat, for a thread of its own: blocking, over its own connection."""

    def __init__(self, url: str, who: Registration, timing: Timing | None = None, keys: Keys | None = None) -> None:
        self._who = who
        self._timing = timing or Timing()
        self._keys = keys or Keys()
        self._link = SyncLink(url, self._keys.prefix, self._timing.beat_s)

    def beat(self, leases: Iterable[tuple[str, str]], free: int, report: Report = NOTHING) -> Beat:
        """Renew the worker's life and its leases (job, epoch). Raises BrokerUnavailable."""
        who = self._who
        fixed = [who.worker, " ".join(who.models), who.slots, free, self._timing.lease_ms, encode_report(report)]
        parts = [part for lease in leases for part in lease]
        fenced, cancelled = self._link.run("beat", [self._keys.worker(who.worker)], *fixed, *parts)
        return Beat(_names(fenced), _names(cancelled))

    def leave(self) -> None:
        """This worker is gone: whatever it holds or was sent goes to others. Raises BrokerUnavailable."""
        self._link.run("evacuate", [self._keys.worker(self._who.worker)], self._who.worker, "")

    def close(self) -> None:
        """Drop the connection."""
        self._link.close()


def _names(raw: Iterable[bytes]) -> frozenset[str]:
    return frozenset(str(name, "ascii") for name in raw)
