"""`python -m deploy.sbom NAME`: what an image holds, as a CycloneDX list: Python and its packages, the
page's and Debian's.

Format: https://cyclonedx.org/docs/1.6/json/. Run by the image's own Python, with the standard library alone; it says
the same whenever it is run.
"""

import importlib.metadata
import json
import platform
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

DEBIAN = Path("/var/lib/dpkg/status")
# Written by npm.
PAGE = Path("gateway/web/node_modules/.package-lock.json")

Component = dict[str, Any]


def main() -> None:
    """Print it."""
    print(json.dumps(listing(sys.argv[1]), indent=1))


def listing(name: str) -> dict[str, Any]:
    """The whole list, for the image of that name."""
    components = [python(), *python_packages(), *page_packages(_text(PAGE)), *debian_packages(_text(DEBIAN))]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name}},
        "components": sorted(components, key=lambda each: str(each["purl"])),
    }


def python() -> Component:
    """The Python that runs this, which Debian may know nothing of."""
    version = platform.python_version()
    return {**_component("python", version, f"pkg:generic/python@{version}"), "type": "platform"}


def python_packages() -> Iterator[Component]:
    """What is installed for this Python, and where that is a virtual environment's, for the one that it was made by."""
    base = sysconfig.get_path("purelib", vars={"base": sys.base_prefix})
    found = {(each.metadata["Name"], each.version) for each in importlib.metadata.distributions(path=[*sys.path, base])}
    for name, version in found:
        normal = re.sub(r"[-_.]+", "-", name).lower()
        yield _component(name, version, f"pkg:pypi/{normal}@{quote(version)}")


def page_packages(lock: str) -> Iterator[Component]:
    """What npm says is installed for the page."""
    for path, package in json.loads(lock or '{"packages": {}}')["packages"].items():
        name, version = path.rpartition("node_modules/")[2], package["version"]
        yield _component(name, version, f"pkg:npm/{quote(name)}@{quote(version)}")


def debian_packages(status: str) -> Iterator[Component]:
    """What dpkg says is installed."""
    for entry in status.strip().split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", entry, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch={fields['Architecture']}"
            yield _component(name, version, purl)


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def _component(name: str, version: str, purl: str) -> Component:
    return {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


if __name__ == "__main__":
    main()
