"""What an operator may set, read once from the environment."""

import dataclasses
import ipaddress
from typing import Literal

from shared.settings import (
    CATALOG,
    KEY_PEPPER,
    LOG_LEVEL,
    METRICS_BIND,
    REDIS_URL,
    TRACE_URL,
    SettingError,
    address,
    choice,
    number,
    text,
    whole,
    words,
)

DAY_S = 86_400


@dataclasses.dataclass(frozen=True)
class Settings:
    """The gateway's settings; each is the variable COROLLA_<NAME>."""

    redis_url: str = REDIS_URL
    catalog: str = CATALOG
    log_level: str = LOG_LEVEL
    trace_url: str = TRACE_URL
    metrics_bind: tuple[str, int] | None = METRICS_BIND
    bind: tuple[str, int] = address("127.0.0.1:8000", "where the gateway listens")
    auth: Literal["auto", "on", "off"] = choice(
        "auto", "whether callers need an API key; auto: not where only this machine can call", ("auto", "on", "off")
    )
    key_pepper: str = KEY_PEPPER
    gateway_name: str = text(
        "",
        "name of this gateway's channel; random where empty, two must not be equal",
        "letters, digits, _ -",
        r"[\w-]*",
    )
    deadline_s: int = whole(300, "time that an answer may take, waiting included", 1, DAY_S)
    session_idle_s: int = whole(300, "life of a session that nobody uses, and of a silent WebSocket", 1, DAY_S)
    resume_grace_s: int = whole(15, "time for the client of a resumable WebSocket to come back", 0, 3600)
    ping_s: float = number(25, "period of WebSocket pings, seconds", 0.05, 3600)
    max_sessions: int = whole(20_000, "inference sessions that may be open at once", 1, 10_000_000)
    max_waiting: int = whole(2_000, "requests that may wait for a worker", 0, 10_000_000)
    max_waiting_per_client: int = whole(500, "requests of one client address that may wait", 0, 10_000_000)
    requests_per_min: int = whole(0, "prompts of one API key, or client address, a minute; 0: any number", 0, 10**9)
    tokens_per_min: int = whole(0, "new tokens of one API key, or client address, a minute; 0: any number", 0, 10**9)
    max_prompt_chars: int = whole(100_000, "length of a prompt, characters", 1, 100_000_000)
    max_body_bytes: int = whole(1 << 20, "size of a request's body", 1024, 1 << 30)
    max_frame_bytes: int = whole(256 << 10, "size of a WebSocket message", 1024, 1 << 30)
    batch_api: Literal["on", "off"] = choice(
        "on", "whether /v1/files and /v1/batches are served; off: no place for files is needed", ("on", "off")
    )
    files: str = text("var/files", "where files of batches lie: a folder, or a URL that fsspec knows, such as s3://...")
    max_file_bytes: int = whole(100 << 20, "size of a file for a batch", 1024, 1 << 40)
    batch_concurrency: int = whole(8, "requests of one batch that are under way at once", 1, 1000)
    cors_origins: tuple[str, ...] = words("", "origins of pages that may call the API; empty: all of them")
    trusted_proxies: tuple[str, ...] = words("", "addresses or networks of proxies whose X-Forwarded headers count")

    def __post_init__(self) -> None:
        if self.metrics_bind and self.metrics_bind[1] == self.bind[1]:
            raise SettingError(f"COROLLA_METRICS_BIND must have another port than COROLLA_BIND, {self.bind[1]}")
        if self.needs_keys and not self.key_pepper:
            what = "COROLLA_KEY_PEPPER is not set, but must be, as callers need API keys: see README.md"
            raise SettingError(f"{what}, or switch them off in words by COROLLA_AUTH=off")

    @property
    def needs_keys(self) -> bool:
        """Whether callers need an API key."""
        return self.auth == "on" or (self.auth == "auto" and not _is_loopback(self.bind[0]))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
