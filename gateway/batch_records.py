"""Files and batches as they are kept, and as the OpenAI API shows them. Pure."""

import hashlib
import time
from typing import Literal

import msgspec

from gateway.openai_objects import BatchObject, Counts, FileObject, LineError, LineErrors

MAX_LINES = 50_000
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")

Status = Literal["validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"]
ENDED: tuple[Status, ...] = ("completed", "failed", "expired", "cancelled")
# Whoever wants a batch cancelled is not overruled by who is at work on it.
_BEFORE: dict[Status, tuple[Status, ...]] = {
    "in_progress": ("validating",),
    "finalizing": ("in_progress",),
    "cancelling": ("in_progress", "finalizing"),
    "completed": ("finalizing",),
    "cancelled": ("validating", "cancelling"),
}


class File(msgspec.Struct, frozen=True):
    """A file's record. bytes: its size; created_at: seconds since 1970."""

    id: str
    owner: str
    bytes: int
    created_at: int
    filename: str
    purpose: str

    def shown(self) -> FileObject:
        """As the OpenAI API has it."""
        return FileObject(self.id, self.bytes, self.created_at, self.filename, self.purpose)


class Batch(msgspec.Struct, frozen=True):
    """A batch's record. Times are seconds since 1970; times holds when a status was reached, as `<status>_at`."""

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    metadata: dict[str, str] | None = None
    status: Status = "validating"
    times: dict[str, int] = {}
    counts: Counts = Counts()
    errors: tuple[LineError, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.status in ENDED

    def turned(self, status: Status, **fields: object) -> "Batch":
        """The batch in that status from now on; as it is where that cannot follow its own."""
        if self.ended or self.status not in _BEFORE.get(status, (self.status,)):
            return self
        times = self.times | {f"{status}_at": int(time.time())}
        return msgspec.structs.replace(self, status=status, times=times, **fields)

    def shown(self) -> BatchObject:
        """As the OpenAI API has it."""
        shown = BatchObject(
            id=self.id,
            endpoint=self.endpoint,
            errors=LineErrors(self.errors) if self.errors else None,
            input_file_id=self.input_file_id,
            completion_window=self.completion_window,
            status=self.status,
            output_file_id=self.output_file_id,
            error_file_id=self.error_file_id,
            created_at=self.created_at,
            expires_at=self.expires_at,
            request_counts=self.counts,
            metadata=self.metadata,
        )
        return msgspec.structs.replace(shown, **self.times)


def derived_id(*parts: object) -> str:
    """32 hex digits that follow from the parts, so that work done twice has the same names."""
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).hexdigest()
