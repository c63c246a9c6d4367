"""`python -m deploy.sbom NAME`: what an image holds, as a CycloneDX list: Python's packages, and those of Debian.

Format: https://cyclonedx.org/docs/1.6/json/. Run by the image's own Python, with the standard library alone; it says
the same whenever it is run.
"""

import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

DEBIAN = Path("/var/lib/dpkg/status")

Component = dict[str, Any]


def main() -> None:
    """Print it."""
    print(json.dumps(listing(sys.argv[1]), indent=1))


def listing(name: str) -> dict[str, Any]:
    """The whole list, for the image of that name."""
    status = DEBIAN.read_text() if DEBIAN.exists() else ""
    components = [*python_packages(), *debian_packages(status)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name}},
        "components": sorted(components, key=lambda each: str(each["purl"])),
    }


def python_packages() -> Iterator[Component]:
    """What is installed for this Python."""
    found = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    for name, version in found.items():
        normal = re.sub(r"[-_.]+", "-", name).lower()
        yield _component(name, version, f"pkg:pypi/{normal}@{quote(version)}")


def debian_packages(status: str) -> Iterator[Component]:
    """What dpkg says is installed."""
    for entry in status.strip().split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", entry, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch={fields['Architecture']}"
            yield _component(name, version, purl)


def _component(name: str, version: str, purl: str) -> Component:
    return {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


if __name__ == "__main__":
    main()
