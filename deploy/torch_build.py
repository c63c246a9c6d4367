"""`python -m deploy.torch_build INDEX`: exit status 1 where torch is not the build that this package index is for.

pip takes torch from its own index, without a word, where INDEX does not answer or lacks this version of torch. An
address that names no build, an empty one among them, lets any build do. Runs with the standard library alone.
"""

import importlib.metadata
import re
import sys

BUILD = re.compile(r"cpu|xpu|cu\d+|rocm[\d.]+")


def complaint(index: str, version: str) -> str | None:
    """What is wrong with torch of that version, in a line; None where it is right."""
    wanted = index.rstrip("/").rpartition("/")[2]
    if not BUILD.fullmatch(wanted) or version.partition("+")[2] == wanted:
        return None
    return f"TORCH_INDEX asks for torch's build {wanted}, but {version} is what was found: has {index} this version?"


def main() -> int:
    """Look at what is installed; the exit status."""
    text = complaint(sys.argv[1], importlib.metadata.version("torch"))
    if text:
        print(text, file=sys.stderr)
    return int(bool(text))


if __name__ == "__main__":
    sys.exit(main())
