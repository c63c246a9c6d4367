"""The page at /: what runs here and how to call it."""

import html
import string
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from shared.catalog import Catalog, Model

WEB = Path(__file__).parent / "web"


class Pages:
    """Pages made from the catalogue and the files in web/."""

    def __init__(self, catalog: Catalog) -> None:
        rows = "\n".join(_row(model) for model in catalog.models.values())
        template = string.Template((WEB / "index.html").read_text(encoding="utf-8"))
        partly = template.safe_substitute(default=html.escape(catalog.default.key), models=rows)
        self._index = string.Template(partly)

    async def index(self, request: Request) -> Response:
        """GET /"""
        host = html.escape(request.headers.get("host", "localhost"))
        scheme = request.url.scheme
        socket = "wss" if scheme == "https" else "ws"
        return HTMLResponse(self._index.substitute(http=f"{scheme}://{host}", ws=f"{socket}://{host}"))


def _row(model: Model) -> str:
    name = html.escape(model.name)
    if model.model_card.startswith(("https://", "http://")):
        name = f'<a href="{html.escape(model.model_card)}" rel="noopener noreferrer">{name}</a>'
    key = html.escape(model.key).replace("$", "$$")
    return f"<tr><td>{name.replace('$', '$$')}</td><td><code>{key}</code></td></tr>"
