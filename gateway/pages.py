"""The pages for people, and the files that they consist of."""

import gzip
import hashlib
import string
from collections.abc import Sequence

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gateway import assets
from gateway.assets import CHAT, MARKED, PURIFY, STATUS, WEB, Asset

# Everything comes from here, nothing is inline, and only DOMPurify makes markup of text (Trusted Types).
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types dompurify highlighter"
)
FOR_EVER = "public, max-age=31536000, immutable"
ONCE = "no-store"

log = structlog.get_logger()


class Pages:
    """The chat at /, the status page, and what both load from /web/VERSION/."""

    def __init__(self) -> None:
        self._assets = assets.load()
        self._index = self._page("index.html", (*CHAT, MARKED, PURIFY))
        self._status = self._page("status.html", STATUS)
        if self._assets.missing:
            log.warning("the page is not installed", missing=self._assets.missing)

    async def index(self, request: Request) -> Response:
        """GET /: the chat; 503 where its packages are not installed, which the API does not need."""
        if self._assets.missing:
            text = "The page's packages are not installed: run `npm ci` in gateway/web, or `make up`.\n"
            return PlainTextResponse(text, 503)
        return _fresh(request, self._index)

    async def status(self, request: Request) -> Response:
        """GET /status: what lives, how busy it is, and the swarm's blocks."""
        return _fresh(request, self._status)

    async def file(self, request: Request) -> Response:
        """GET /web/VERSION/PATH: a file of the list, in the version that is here.

        While gateways are replaced one by one, a page of one asks others for its files. What these have does in its
        stead, for once.
        """
        found = self._assets.files.get(request.path_params["path"])
        if found is None:
            raise HTTPException(404)
        keeping = FOR_EVER if request.path_params["version"] == self._assets.version else ONCE
        return _packed(request, found, {"cache-control": keeping})

    def _page(self, name: str, modules: Sequence[str]) -> Asset:
        template = string.Template((WEB / name).read_text(encoding="utf-8"))
        web = f"/web/{self._assets.version}"
        # Otherwise a browser learns of each module only from the one that imports it.
        preloads = "\n".join(f'<link rel="modulepreload" href="{web}/{path}">' for path in modules)
        content = template.substitute(web=web, preloads=preloads).encode()
        return Asset("text/html; charset=utf-8", content, gzip.compress(content, 9, mtime=0))


def _fresh(request: Request, page: Asset) -> Response:
    """A page, which browsers ask about each time."""
    tag = f'"{hashlib.sha256(page.plain).hexdigest()[:16]}"'
    headers = {"cache-control": "no-cache", "etag": tag, "content-security-policy": POLICY}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return _packed(request, page, headers)


def _packed(request: Request, asset: Asset, headers: dict[str, str]) -> Response:
    """The asset, as gzip where the client takes that."""
    headers = {**headers, "vary": "Accept-Encoding"}
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(asset.plain, headers=headers, media_type=asset.media_type)
    return Response(asset.gzipped, headers={**headers, "content-encoding": "gzip"}, media_type=asset.media_type)
