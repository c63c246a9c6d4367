"""API keys: `ID.SECRET`. The broker holds the id and an HMAC of the whole, so who reads it there has no key.

HMAC-SHA256 (RFC 2104) with a pepper that only gateways and the operator have; id and secret are 64 and 128 random bits.
"""

import hashlib
import hmac
import re
import secrets
import time
from typing import Literal

import msgspec

from shared.keys import Keys
from shared.link import Link
from shared.shelf import Shelf

Scope = Literal["generate", "batches", "metrics"]
SCOPES: tuple[Scope, ...] = ("generate", "batches", "metrics")
PEPPER_CHARS = 32
MAX_KEYS = 100_000
_OWNER = "-"
_KEY = re.compile(r"([0-9a-f]{16})\.[0-9a-f]{32}", re.ASCII)


def without_secrets(text: str) -> str:
    """`text` with the ids alone of what looks like API keys in it, for logs: some put them where they do not belong."""
    return _KEY.sub(r"\1.***", text)


class KeysFull(Exception):
    """There are too many keys already."""


class ApiKey(msgspec.Struct, frozen=True):
    """What is kept of a key. created_at: seconds since 1970; digest: hexadecimal."""

    id: str
    digest: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: int


class ApiKeys:
    """The keys that count. Every operation may raise BrokerUnavailable."""

    def __init__(self, link: Link, keys: Keys, pepper: str) -> None:
        self._shelf = Shelf(link, keys, "key", ApiKey, 0, MAX_KEYS)
        self._pepper = pepper.encode()

    async def create(self, name: str, scopes: tuple[Scope, ...]) -> str:
        """A new key, which is told this once. Raises KeysFull."""
        id = secrets.token_hex(8)
        key = f"{id}.{secrets.token_hex(16)}"
        record = ApiKey(id, self._digest(key), name, scopes, int(time.time()))
        if not await self._shelf.put(_OWNER, id, record):
            raise KeysFull(f"there are {MAX_KEYS} keys already")
        return key

    async def find(self, key: str) -> ApiKey | None:
        """What is kept of this key; None where it is no key, or was revoked."""
        match = _KEY.fullmatch(key)
        record = await self._shelf.get(match[1]) if match else None
        return record if record and hmac.compare_digest(record.digest, self._digest(key)) else None

    async def counts(self, id: str) -> bool:
        """Whether the key of that id has not been revoked since it was found."""
        return await self._shelf.get(id) is not None

    async def list(self) -> list[ApiKey]:
        """All keys, the newest first."""
        return await self._shelf.list(_OWNER, MAX_KEYS)

    async def revoke(self, id: str) -> bool:
        """Let a key count no longer; whether there was one."""
        return await self._shelf.drop(_OWNER, id)

    def _digest(self, key: str) -> str:
        return hmac.new(self._pepper, key.encode(), hashlib.sha256).hexdigest()
