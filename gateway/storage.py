"""Where files lie: a folder, or anything that fsspec can reach by a URL, such as s3://bucket/folder.

All calls wait for disk or network: they belong into threads. They raise OSError.
"""

import secrets
import shutil
from collections.abc import Iterator
from typing import IO, Protocol

import fsspec

from shared.settings import SettingError


class Source(Protocol):
    """What can be read like a file."""

    def read(self, length: int = ..., /) -> bytes:
        """What comes next; empty at the end."""


class Storage:
    """Named blobs below one URL. What is written appears as a whole, or not at all. Raises SettingError."""

    def __init__(self, url: str) -> None:
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise SettingError(f"COROLLA_FILES is {url!r}, which cannot be used: {error}") from None

    def write(self, name: str, source: Source) -> int:
        """Keep what `source` gives, in the place of what was there; its size in bytes."""
        path = self._path(name)
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        new = f"{path}.{secrets.token_hex(4)}.new"  # of its own: two may write the same at the same time
        try:
            with self._files.open(new, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                size = int(target.tell())
        except BaseException:
            self._files.rm(new)
            raise
        self._files.mv(new, path)
        return size

    def open(self, name: str) -> IO[bytes]:
        """A blob, to read. Raises FileNotFoundError."""
        opened: IO[bytes] = self._files.open(self._path(name), "rb")
        return opened

    def lines(self, name: str) -> Iterator[bytes]:
        """Its lines that are not blank, without their ends."""
        with self.open(name) as file:
            yield from (line.strip() for line in file if not line.isspace())

    def has(self, name: str) -> bool:
        """Whether there is such a blob."""
        return bool(self._files.exists(self._path(name)))

    def remove(self, name: str) -> None:
        """Remove a blob, or all blobs in the folder of that name; what is gone already is no error."""
        if self.has(name):
            self._files.rm(self._path(name), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"
