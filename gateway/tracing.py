"""A span for each request: the layer that joins clients' traces with those of jobs."""

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import traces
from shared.api_keys import without_secrets

# Asked every few seconds, and of no use to anybody.
UNTRACED = ("/health/", "/metrics")


class Tracing:
    """Puts a request's span below its client's, who says where that is (traceparent) and is told where this one is
    (traceresponse). Query strings stay out of it: prompts may be in them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] not in ("http", "websocket") or scope["path"].startswith(UNTRACED):
            await self._app(scope, receive, send)
            return
        method = scope.get("method", "WEBSOCKET")
        fields = {"http.request.method": method, "url.path": without_secrets(scope["path"])}
        parent = Headers(scope=scope).get("traceparent", "")
        with traces.span(method, "SERVER", fields, parent, current=True) as span:

            async def send_traced(message: Message) -> None:
                if span.traceparent:
                    _mark(span, message)
                await send(message)

            with structlog.contextvars.bound_contextvars(**span.ids):
                await self._app(scope, receive, send_traced)


def _mark(span: traces.Span, message: Message) -> None:
    """What an answer's beginning says goes into the span, and where that is goes into the answer."""
    match message["type"]:
        case "http.response.start" | "websocket.http.response.start":
            headers = MutableHeaders(scope=message)
            headers["traceresponse"] = span.traceparent
            span.note({"http.response.status_code": message["status"], "corolla.request": headers.get("x-request-id")})
            if message["status"] >= 500:
                span.fail(str(message["status"]))
        case "websocket.close":
            span.note({"corolla.close_code": message["code"]})
