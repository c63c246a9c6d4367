"""Who it is that asks."""

from starlette.requests import HTTPConnection

from gateway.orders import Caller

# Where the guard leaves the account of an ASGI scope.
ACCOUNT = "corolla.account"


def caller_of(connection: HTTPConnection) -> Caller:
    """The caller of a request or a WebSocket."""
    return Caller(connection.scope.get(ACCOUNT, ""), connection.client.host if connection.client else "-")
