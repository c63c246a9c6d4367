"""The list of what an image holds."""

import importlib.metadata
import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import msgspec

from deploy.sbom import debian_packages, page_packages
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
    (python,) = [each for each in listing["components"] if each["type"] == "platform"]
    assert python["purl"] == "pkg:generic/python@{}.{}.{}".format(*sys.version_info)
    # What the page is made of, at the versions of its lock file.
    locked = json.loads((ROOT / "gateway/web/package-lock.json").read_text())["packages"]
    for name in ("marked", "dompurify", "@highlightjs/cdn-assets"):
        (package,) = [each for each in listing["components"] if each["name"] == name]
        assert package["version"] == locked[f"node_modules/{name}"]["version"]


def test_packages_of_the_page() -> None:
    packages = {
        "node_modules/@a/b": {"version": "1.2.0"},
        "node_modules/c": {"version": "3.0.0+d"},
        "node_modules/c/node_modules/e": {"version": "4.0.0", "license": "MIT"},
    }
    assert [each["purl"] for each in page_packages(json.dumps({"packages": packages}))] == [
        "pkg:npm/%40a/b@1.2.0",
        "pkg:npm/c@3.0.0%2Bd",
        "pkg:npm/e@4.0.0",
    ]
    assert list(page_packages("")) == []


def test_packages_of_the_python_that_made_the_environment(tmp_path: Path) -> None:
    """They are in the image as well, such as pip."""
    venv.create(tmp_path, symlinks=True)
    command = [str(tmp_path / "bin" / "python"), "-m", "deploy.sbom", "x"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    base = sysconfig.get_path("purelib", vars={"base": sys.base_prefix})
    there = {each.name for each in importlib.metadata.distributions(path=[base])}
    assert there <= {each["name"] for each in json.loads(done.stdout)["components"]}


def test_packages_of_debian() -> None:
    assert [each["purl"] for each in debian_packages(STATUS)] == [
        "pkg:deb/debian/bash@5.2.15-2%2Bb8?arch=amd64",
        "pkg:deb/debian/tzdata@2%3A2025b-0?arch=all",
    ]
    assert list(debian_packages("")) == []
