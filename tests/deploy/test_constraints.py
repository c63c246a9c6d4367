"""Every package that is installed, directly or because another one needs it, is pinned; and nothing else is."""

import importlib.metadata
import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.services import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = PROJECT["optional-dependencies"]
PINS = {
    canonicalize_name(name): Version(version)
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}


def installed(*roots: str) -> dict[str, Version]:
    """These packages and all that they need, at their installed versions; without the local part of a version."""
    found: dict[str, Version] = {}
    waiting = [Requirement(root) for root in roots]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found and not requirement.extras:
            continue
        distribution = importlib.metadata.distribution(name)
        found[name] = Version(Version(distribution.version).public)
        extras = requirement.extras or {""}
        if name != "petals":  # installed without its dependencies
            needed = [Requirement(each) for each in distribution.requires or []]
            waiting += [
                each
                for each in needed
                if not each.marker or any(each.marker.evaluate({"extra": extra}) for extra in extras)
            ]
    return found


def test_what_is_installed_is_what_is_pinned() -> None:
    everything = [*PROJECT["dependencies"], *(name for group in GROUPS.values() for name in group), "petals"]
    assert installed(*everything) == PINS


def test_a_gateway_needs_no_model_code() -> None:
    names = installed(*PROJECT["dependencies"], *GROUPS["gateway"]).keys()
    assert names & {"torch", "numpy", "transformers", "hivemind", "petals"} == set()


def test_the_two_packages_that_share_a_module_do_not_meet() -> None:
    assert "pymultihash" not in {canonicalize_name(each.name) for each in importlib.metadata.distributions()}
