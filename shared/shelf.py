"""Records that outlive jobs: of files and batches, for those who own them."""

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from shared.keys import Keys
from shared.link import Link

T = TypeVar("T", bound=msgspec.Struct)

UNBOUNDED = 2**31


class Shelf(Generic[T]):
    """Records of one kind, as JSON. Every operation may raise BrokerUnavailable: it may have happened or not.

    life_ms: of a record, from when it was put; 0 is for ever. limit: records of one owner.
    """

    def __init__(self, link: Link, keys: Keys, kind: str, record: type[T], life_ms: int, limit: int) -> None:
        self._link = link
        self._keys = keys
        self._kind = kind
        self._decoder = msgspec.json.Decoder(record)
        self._life_ms = life_ms
        self._limit = limit

    async def put(self, owner: str, id: str, record: T, bounded: bool = True) -> bool:
        """Keep a new record; one that is there stays as it is. False where the owner has too many.

        bounded: by the limit, which is not for what comes of work that was accepted.
        """
        keys = [self._keys.record(self._kind, id), self._keys.records(self._kind, owner)]
        body = msgspec.json.encode(record)
        limit = self._limit if bounded else UNBOUNDED
        return bool(await self._link.run("put_record", keys, id, body, self._life_ms, limit))

    async def get(self, id: str) -> T | None:
        """The record; None where there is none, or not any more."""
        found = await self._read(id)
        return found[1] if found else None

    async def change(self, id: str, change: Callable[[T], T]) -> T | None:
        """Replace the record by what `change` makes of it, which must bear to be done twice; what it is then.

        None where it is gone.
        """
        while True:
            found = await self._read(id)
            if found is None:
                return None
            version, before = found
            after = change(before)
            if after == before:
                return before
            key = self._keys.record(self._kind, id)
            if await self._link.run("replace_record", [key], version, msgspec.json.encode(after)):
                return after

    async def list(self, owner: str, limit: int, after: str = "") -> list[T]:
        """Up to `limit` of an owner's records, the newest first, from behind the id `after`."""
        index = self._keys.records(self._kind, owner)
        bodies = await self._link.run("list_records", [index], self._kind, after, limit)
        return [self._decoder.decode(body) for body in bodies]

    async def drop(self, owner: str, id: str) -> bool:
        """Forget a record; whether it was there."""
        keys = [self._keys.record(self._kind, id), self._keys.records(self._kind, owner)]
        return bool(await self._link.run("drop_record", keys, id))

    async def _read(self, id: str) -> tuple[int, T] | None:
        found = await self._link.run("get_record", [self._keys.record(self._kind, id)])
        return (found[0], self._decoder.decode(found[1])) if found else None
