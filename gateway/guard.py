"""Who may call what: an ASGI layer that lets API keys through, where callers need one.

A key comes as `Authorization: Bearer KEY`, or, from a page that opens a WebSocket, as the subprotocol `key.KEY` beside
`corolla`. Never in a URL: those are logged on the way.
"""

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.callers import ACCOUNT
from gateway.errors import named_failure, plain_failure
from gateway.patience import BRIEF_S, patiently
from shared import api_keys
from shared.api_keys import ApiKeys
from shared.errors import BrokerUnavailable

# Pages, documents and health are for everybody; what is in none of these lists needs the scope `generate`.
OPEN = ("/health/", "/web/")
OPEN_PAGES = ("/", "/status", "/docs", "/docs.css", "/openapi.json")
SCOPES: dict[str, api_keys.Scope] = {"/metrics": "metrics", "/v1/files": "batches", "/v1/batches": "batches"}
SUBPROTOCOL = "corolla"
_KEY_PROTOCOL = "key."
_NO_KEY = "An API key is needed: `Authorization: Bearer KEY`"
WRONG_KEY = "This API key does not count, or not any more"


class Guard:
    """Refuses who has no key, or none for this, and notes whose request it is."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] not in ("http", "websocket") or _is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            refused = await patiently(lambda: self._refusal(scope), BRIEF_S)
        except BrokerUnavailable as error:
            await _answer(named_failure(scope["path"], error), scope, receive, send)
            return
        if refused is None:
            await self._app(scope, receive, _accepting(scope, send))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
        else:
            answer = plain_failure(scope["path"], refused[0], "PermissionError", refused[1])
            if refused[0] == 401:
                answer.headers["www-authenticate"] = "Bearer"
            await answer(scope, receive, send)

    async def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and words for who may not; None where the caller may, whose account is in the scope then."""
        key = _key_of(scope)
        if key is None:
            return 401, _NO_KEY
        found = await self._keys.find(key)
        if found is None:
            return 401, WRONG_KEY
        needed = _needed(scope["path"])
        if needed not in found.scopes:
            return 403, f"This API key is not for this: it lacks the scope `{needed}`"
        scope[ACCOUNT] = found.id
        return None


async def _answer(answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request, or a WebSocket's handshake, by the ASGI extension "websocket.http.response"."""
    if scope["type"] == "websocket":
        await receive()
    await answer(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in OPEN_PAGES or path.startswith(OPEN)


def _needed(path: str) -> api_keys.Scope:
    for beginning, needed in SCOPES.items():
        if path == beginning or path.startswith(f"{beginning}/"):
            return needed
    return "generate"


def _key_of(scope: Scope) -> str | None:
    headers = Headers(scope=scope)
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return key.strip()
    offered = scope.get("subprotocols", ())
    return next((each.removeprefix(_KEY_PROTOCOL) for each in offered if each.startswith(_KEY_PROTOCOL)), None)


def _accepting(scope: Scope, send: Send) -> Send:
    """A page whose subprotocols are not answered closes the socket; the key is not what it is answered with."""
    if SUBPROTOCOL not in scope.get("subprotocols", ()):
        return send

    async def accepting(message: Message) -> None:
        if message["type"] == "websocket.accept":
            message["subprotocol"] = SUBPROTOCOL
        await send(message)

    return accepting
