"""What an operator may set, read once from the environment."""

import dataclasses
from typing import Literal

from shared.settings import (
    CATALOG,
    LOG_LEVEL,
    METRICS_BIND,
    REDIS_URL,
    TRACE_URL,
    SettingError,
    choice,
    number,
    text,
    whole,
    words,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The worker's settings; each is the variable COROLLA_<NAME>."""

    redis_url: str = REDIS_URL
    catalog: str = CATALOG
    log_level: str = LOG_LEVEL
    trace_url: str = TRACE_URL
    metrics_bind: tuple[str, int] | None = METRICS_BIND
    slots: int = whole(32, "jobs that a worker runs at the same time", 1, 1024)
    peers: tuple[str, ...] = words("", "multiaddresses to join the swarm by; empty: Petals' public swarm")
    device: str = text(
        "auto",
        "where embeddings and head run; auto: the first GPU, if there is one",
        "auto, cpu, cuda or cuda:NUMBER",
        r"auto|cpu|cuda(:\d+)?",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = choice(
        "auto",
        "number format of embeddings and head; auto: what the device is good at",
        ("auto", "float32", "bfloat16", "float16"),
    )
    worker_name: str = text(
        "",
        "name of this worker at the broker; random where empty, two must not be equal",
        "letters, digits, . _ -",
        r"[\w.-]*",
    )
    step_timeout_s: float = number(60, "a token that takes longer is left to another worker", 0.1, 3600)
    kept_sessions: int = whole(64, "sessions without a job whose attention caches are kept", 0, 100_000)
    kept_idle_s: int = whole(300, "time after which such a cache is freed", 1, 86_400)
    lease_ms: int = whole(8_000, "a job whose worker was silent for this long goes to another one", 100, 600_000)
    beat_s: float = number(2, "period of a worker's signs of life, at most half a lease", 0.02, 300)
    reap_s: float = number(1, "period of a worker's look for lost jobs", 0.02, 300)

    def __post_init__(self) -> None:
        if 2000 * self.beat_s > self.lease_ms:
            most = f"{self.lease_ms / 2000:g}, half of COROLLA_LEASE_MS"
            raise SettingError(f"COROLLA_BEAT_S is {self.beat_s:g}, but must be at most {most}")
