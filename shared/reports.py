"""What a worker tells of itself with each beat, for /status. msgpack, checked on decode."""

import msgspec


class Coverage(msgspec.Struct, frozen=True):
    """How many servers of its swarm hold each block of a model, as one worker sees it.

    age_s: how long ago the worker asked the swarm.
    """

    servers: tuple[int, ...]
    age_s: float


class Report(msgspec.Struct, frozen=True):
    """tokens_per_s: since the beat before. coverage: by the key of the model, where it is known."""

    tokens_per_s: float = 0.0
    coverage: dict[str, Coverage] = {}


_decoder = msgspec.msgpack.Decoder(Report)
_encoder = msgspec.msgpack.Encoder()


def encode_report(report: Report) -> bytes:
    """The report as msgpack."""
    return _encoder.encode(report)


def decode_report(raw: bytes) -> Report:
    """The inverse of encode_report. What another version of this software wrote is as good as nothing."""
    try:
        return _decoder.decode(raw)
    except msgspec.MsgspecError:
        return Report()
