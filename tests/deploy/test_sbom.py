"""The list of what an image holds."""

import json
import subprocess
import sys

import msgspec

from deploy.sbom import debian_packages
from tests.services import ROOT

STATUS = """Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2.15-2+b8
Description: a shell
 Version: of no meaning

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: tzdata
Status: install ok installed
Architecture: all
Version: 2:2025b-0
"""


def test_what_is_installed_is_listed_once() -> None:
    command = [sys.executable, "-m", "deploy.sbom", "corolla-gateway"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    listing = json.loads(done.stdout)
    assert (listing["bomFormat"], listing["specVersion"]) == ("CycloneDX", "1.6")
    assert listing["metadata"]["component"]["name"] == "corolla-gateway"
    references = [each["bom-ref"] for each in listing["components"]]
    assert len(set(references)) == len(references)
    (own,) = [each for each in listing["components"] if each["name"] == "msgspec"]
    assert own["version"] == msgspec.__version__
    assert own["purl"] == f"pkg:pypi/msgspec@{msgspec.__version__}"


def test_packages_of_debian() -> None:
    assert [each["purl"] for each in debian_packages(STATUS)] == [
        "pkg:deb/debian/bash@5.2.15-2%2Bb8?arch=amd64",
        "pkg:deb/debian/tzdata@2%3A2025b-0?arch=all",
    ]
    assert list(debian_packages("")) == []
