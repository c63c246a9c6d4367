"""Settings read once from the environment, checked, frozen.

A service declares a frozen dataclass whose fields are made by the functions below. `read` fills it from variables
named COROLLA_<FIELD> and raises SettingError, whose text names the variable and says what is allowed.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

PREFIX = "COROLLA_"

T = TypeVar("T")


class SettingError(Exception):
    """A variable has a value that is not allowed; the text is one line for the operator."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """How one variable is read: `parse` raises ValueError; `allowed` is what the operator is told, and the value too,
    unless it is `secret`."""

    parse: Callable[[str], Any]
    allowed: str
    meaning: str
    default: str
    secret: bool = False


def _field(rule: Rule) -> Any:
    return dataclasses.field(metadata={"rule": rule})


def text(default: str, meaning: str, allowed: str = "any text", pattern: str = ".*", secret: bool = False) -> Any:
    """A string that matches `pattern` as a whole."""

    def parse(raw: str) -> str:
        if not re.fullmatch(pattern, raw):
            raise ValueError(raw)
        return raw

    return _field(Rule(parse, allowed, meaning, default, secret))


def whole(default: int, meaning: str, low: int, high: int) -> Any:
    """An integer from `low` to `high`."""

    def parse(raw: str) -> int:
        value = int(raw)
        if not low <= value <= high:
            raise ValueError(raw)
        return value

    return _field(Rule(parse, f"a whole number from {low} to {high}", meaning, str(default)))


def number(default: float, meaning: str, low: float, high: float) -> Any:
    """A float from `low` to `high`."""

    def parse(raw: str) -> float:
        value = float(raw)
        if not low <= value <= high:
            raise ValueError(raw)
        return value

    return _field(Rule(parse, f"a number from {low:g} to {high:g}", meaning, f"{default:g}"))


def choice(default: str, meaning: str, options: tuple[str, ...]) -> Any:
    """One of a few words."""

    def parse(raw: str) -> str:
        if raw not in options:
            raise ValueError(raw)
        return raw

    return _field(Rule(parse, "one of " + ", ".join(options), meaning, default))


def words(default: str, meaning: str, allowed: str = "words separated by commas or spaces") -> Any:
    """A tuple of strings, separated by commas or white space; empty is the empty tuple."""
    return _field(Rule(lambda raw: tuple(raw.replace(",", " ").split()), allowed, meaning, default))


def address(default: str, meaning: str) -> Any:
    """A `host:port` to listen on, as the tuple (host, port); None where it is empty, which only a default can be."""

    def parse(raw: str) -> tuple[str, int] | None:
        if not raw:
            return None
        host, _, port = raw.rpartition(":")
        if not host or not 0 <= int(port) <= 65535:
            raise ValueError(raw)
        return host.strip("[]"), int(port)

    return _field(Rule(parse, "host:port, such as 127.0.0.1:8000 or [::]:8000", meaning, default))


def rules(kind: type) -> dict[str, Rule]:
    """Variable name → rule, in the order in which the dataclass declares them."""
    return {PREFIX + field.name.upper(): field.metadata["rule"] for field in dataclasses.fields(kind)}


def read(kind: type[T], environ: Mapping[str, str] | None = None) -> T:
    """Fill the settings dataclass `kind`; an unset or empty variable takes its default. Raises SettingError."""
    source = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for name, rule in rules(kind).items():
        raw = source.get(name) or rule.default
        try:
            values[name.removeprefix(PREFIX).lower()] = rule.parse(raw)
        except ValueError:
            told = "wrong" if rule.secret else repr(raw)
            raise SettingError(f"{name} is {told}, but must be {rule.allowed}") from None
    return kind(**values)


REDIS_URL = text(
    "redis://127.0.0.1:6379/0",
    "the broker, Redis 7 or Valkey 8 and later; a password belongs into this URL",
    "a URL that starts with redis://, rediss:// or unix://, or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE",
    r"(redis|rediss|unix)://\S+|rediss?\+sentinel://([^/\s]*@)?[^/@\s,]+:\d+(,[^/@\s,]+:\d+)*/[^/\s]\S*",
    secret=True,
)
KEY_PEPPER = text(
    "",
    "a secret of the operator's, by which the broker's copies of API keys are of no use to others",
    "32 characters or more without spaces, such as `openssl rand -hex 32` prints",
    r"\S{32,}|",
    secret=True,
)
CATALOG = text("deploy/catalogs/local.toml", "the catalogue of models, a TOML file", "the path of a TOML file")
TRACE_URL = text(
    "",
    "collector to which spans are sent by OTLP over HTTP, such as http://collector:4318/v1/traces; empty: to nobody",
    "a URL that starts with http:// or https://",
    r"(https?://\S+)?",
)
METRICS_BIND = address(
    "", "where GET /metrics alone is answered, without a key; empty: by a gateway where it listens, by a worker nowhere"
)
LOG_LEVEL = choice("info", "least severe line that is logged", ("debug", "info", "warning", "error"))
