"""The scripts in shared/scripts: one file an operation, each with the prelude before it.

Redis makes the prelude's functions anew at each call, which costs as much as three commands. A script that mostly ends
before it needs them says where it does, by a line that begins with MARK.
"""

import dataclasses
import functools
import hashlib
from pathlib import Path

MARK = "-- prelude"
_FOLDER = Path(__file__).parent / "scripts"


@dataclasses.dataclass(frozen=True)
class Script:
    """A script's text, and the SHA-1 by which Redis knows it."""

    text: str
    sha: str


@functools.cache
def script(name: str) -> Script:
    """The script of that name; read once."""
    before, mark, after = _read(name).rpartition(f"\n{MARK}")
    text = _read("log") + before + "\n" + _read("prelude") + mark + after
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _read(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text()
