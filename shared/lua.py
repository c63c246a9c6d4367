"""The scripts in shared/scripts: one file an operation, each with the prelude before it."""

import dataclasses
import functools
import hashlib
from pathlib import Path

_FOLDER = Path(__file__).parent / "scripts"


@dataclasses.dataclass(frozen=True)
class Script:
    """A script's text, and the SHA-1 by which Redis knows it."""

    text: str
    sha: str


@functools.cache
def script(name: str) -> Script:
    """The script of that name; read once."""
    text = (_FOLDER / "prelude.lua").read_text() + (_FOLDER / f"{name}.lua").read_text()
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
