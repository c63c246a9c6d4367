"""`python -m deploy.requirements GROUP...`: the names of the packages that a service needs, one a line, for pip.

Their versions, and those of what they need in turn, are in constraints.txt. Runs with the standard library alone.
"""

import sys
import tomllib
from pathlib import Path


def names(*groups: str) -> list[str]:
    """What pyproject.toml lists for all services, and for these groups. Raises KeyError."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    found: list[str] = [*project["dependencies"]]
    for group in groups:
        found += project["optional-dependencies"][group]
    return sorted(set(found))


def main() -> None:
    """Print the names."""
    print("\n".join(names(*sys.argv[1:])))


if __name__ == "__main__":
    main()
