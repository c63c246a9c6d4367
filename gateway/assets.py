"""The page's files: a fixed list, read once, held as they are and as gzip, under a version that follows from them all.

Modules name each other by relative paths. So all of them lie below one folder, whose name is the version, and browsers
may keep them for ever.
"""

import dataclasses
import functools
import gzip
import hashlib
from collections.abc import Mapping
from pathlib import Path

WEB = Path(__file__).parent / "web"

# What the page needs of the packages that package-lock.json pins.
MARKED = "node_modules/marked/lib/marked.esm.js"
PURIFY = "node_modules/dompurify/dist/purify.es.mjs"
HIGHLIGHT = "node_modules/@highlightjs/cdn-assets/es/highlight.min.js"
PACKAGED = (MARKED, PURIFY, HIGHLIGHT)

# The modules that each page starts with, and everything else.
CHAT = (
    "announcer.js",
    "answer.js",
    "api-key.js",
    "app.js",
    "blocks.js",
    "chat.js",
    "clipboard.js",
    "code-block.js",
    "composer.js",
    "dialogue-view.js",
    "dialogue.js",
    "exchange.js",
    "graft.js",
    "highlighter.js",
    "input-method.js",
    "line.js",
    "make.js",
    "markdown.js",
    "math.js",
    "message-view.js",
    "model-picker.js",
    "models.js",
    "notice.js",
    "prompt.js",
    "runs.js",
    "settings.js",
    "sidebar.js",
    "speed.js",
    "store.js",
    "theme-switch.js",
    "toast.js",
    "trouble.js",
)
STATUS = ("api-key.js", "block-chart.js", "graft.js", "make.js", "status.js", "theme-switch.js")
OTHERS = (
    "base.css",
    "chat.css",
    "dialog.css",
    "highlight-worker.js",
    "icon.svg",
    "narrow.css",
    "sidebar.css",
    "status.css",
    "text.css",
    "theme.js",
)
OWN = (*CHAT, *(path for path in STATUS if path not in CHAT), *OTHERS)

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclasses.dataclass(frozen=True)
class Asset:
    """A file as it is sent."""

    media_type: str
    plain: bytes
    gzipped: bytes


@dataclasses.dataclass(frozen=True)
class Assets:
    """version: changes with any of the files. files: by path below web/. missing: paths that are not there."""

    version: str
    files: Mapping[str, Asset]
    missing: tuple[str, ...]


@functools.cache
def load() -> Assets:
    """Read the files. Those of packages are missing where nobody has installed them."""
    found = {path: (WEB / path).read_bytes() for path in (*OWN, *PACKAGED) if (WEB / path).is_file()}
    digest = hashlib.sha256()
    for path, content in found.items():
        digest.update(f"{path} {len(content)}\n".encode() + content)
    files = {path: _asset(path, content) for path, content in found.items()}
    return Assets(digest.hexdigest()[:16], files, tuple(path for path in (*OWN, *PACKAGED) if path not in found))


def _asset(path: str, content: bytes) -> Asset:
    return Asset(_TYPES[Path(path).suffix], content, gzip.compress(content, 9, mtime=0))
