"""Whose pages may do what, by the header Origin."""

from starlette.requests import HTTPConnection

_SCHEMES = {"ws": "http", "wss": "https"}


def same_origin(connection: HTTPConnection) -> bool:
    """Whether it comes from one of our own pages; the scheme is a trusted proxy's word where there is one."""
    scheme = connection.scope["scheme"]
    own = f"{_SCHEMES.get(scheme, scheme)}://{connection.headers.get('host', '')}"
    return connection.headers.get("origin", "").lower() == own.lower()


def allowed_socket(connection: HTTPConnection, origins: tuple[str, ...]) -> bool:
    """Whether a WebSocket is welcome. Where an operator named `origins`, pages of others are not; programs are."""
    origin = connection.headers.get("origin")
    return not origins or origin is None or origin in origins or same_origin(connection)
