"""One root error, and a code for every way in which a job can fail.

    CorollaError
    ├── InvalidField      a request's field is wrong: its name, what is allowed
    ├── TooLong           prompt and answer together are longer than the model, or the session, allows
    ├── Discontinuity     a stream cannot go on exactly as it began
    └── BrokerUnavailable the broker does not answer, or not in time

Texts are shown to people: one line, no path, no prompt, no traceback.
"""

import enum


class Code(enum.StrEnum):
    """Why something failed. Edges map codes to their protocol's words and statuses; nothing else does."""

    INVALID = "invalid"
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_NOT_PUBLIC = "model_not_public"
    SESSION_NOT_FOUND = "session_not_found"
    TOO_MANY_SESSIONS = "too_many_sessions"
    TOO_LONG = "too_long"
    TENANT_BUSY = "tenant_busy"
    BUSY = "busy"
    RATE = "rate"
    DEADLINE = "deadline"
    DISCONTINUITY = "discontinuity"
    SWARM = "swarm"
    CACHE_FULL = "cache_full"
    POISON = "poison"
    BROKER = "broker"
    REVOKED = "revoked"
    INTERNAL = "internal"


class CorollaError(Exception):
    """What went wrong, by code, with a text that may be shown to a client as it is."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class InvalidField(CorollaError):
    """A field of a request is wrong; `field` is its name in the protocol that the client speaks."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(Code.INVALID, message)
        self.field = field


class TooLong(CorollaError):
    """An answer does not fit. lengths: tokens of the prompt, of the answer, and how many may be used."""

    def __init__(self, message: str, lengths: tuple[int, int, int] | None) -> None:
        super().__init__(Code.TOO_LONG, message)
        self.lengths = lengths


class Discontinuity(CorollaError):
    """A stream cannot go on exactly as it began."""

    def __init__(self) -> None:
        super().__init__(
            Code.DISCONTINUITY, "The stream was interrupted and cannot go on exactly; please send the request again"
        )


class BrokerUnavailable(CorollaError):
    """The broker cannot be reached; the operation may or may not have happened."""

    def __init__(self, message: str = "The message broker does not answer, please try again later") -> None:
        super().__init__(Code.BROKER, message)
