"""Every package that is installed, directly or because another one needs it, is pinned; and nothing else is."""

import importlib.metadata
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.services import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = PROJECT["optional-dependencies"]


def needed_here(requirement: Requirement) -> bool:
    """Whether it is for machines of this kind."""
    return not requirement.marker or requirement.marker.evaluate()


LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = {
    canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("=="))
    for pin in filter(needed_here, map(Requirement, LINES))
}


def installed(*roots: str) -> dict[str, Version]:
    """These packages and all that they need, at their installed versions; without the local part of a version."""
    found: dict[str, Version] = {}
    waiting = [*filter(needed_here, map(Requirement, roots))]
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


def test_a_package_for_one_kind_of_machine_is_not_asked_for_on_others() -> None:
    """There is no wheel of cpufeature for ARM, and Petals asks for it on x86-64 alone."""
    (pin,) = [pin for pin in map(Requirement, LINES) if pin.name == "cpufeature"]
    (need,) = [each for each in map(Requirement, GROUPS["worker"]) if each.name == "cpufeature"]
    for marker in (pin.marker, need.marker):
        assert marker
        machines = {name: marker.evaluate({"platform_machine": name}) for name in ("x86_64", "aarch64")}
        assert machines == {"x86_64": True, "aarch64": False}
