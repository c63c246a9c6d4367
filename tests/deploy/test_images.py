"""The images' recipes: what hadolint says, and what this project asks for beyond it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deploy.requirements import names
from tests.services import ROOT

IMAGES = ROOT / "deploy" / "images"
RECIPES = sorted(IMAGES.glob("*.Dockerfile"))
HADOLINT = Path(sys.executable).with_name("hadolint")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

Instruction = tuple[str, str]


def stages(recipe: Path) -> list[list[Instruction]]:
    """Instructions and what they say, by stage."""
    text = re.sub(r"^\s*#.*\n", "", recipe.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: list[list[Instruction]] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest.strip()))
    return found


def said(stage: list[Instruction], word: str) -> list[str]:
    return [rest for each, rest in stage if each == word]


def test_there_are_two_images() -> None:
    assert [recipe.name for recipe in RECIPES] == ["gateway.Dockerfile", "worker.Dockerfile"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_hadolint(recipe: Path) -> None:
    done = subprocess.run([HADOLINT, "--no-color", recipe], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_looks(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian:latest\nRUN cd /tmp && apt-get install x\n")
    done = subprocess.run([HADOLINT, "--no-color", bad], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert {"DL3003", "DL3007", "DL3008"} <= set(re.findall(r"DL\d+", done.stdout))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_the_last_stage_is_small_and_locked(recipe: Path) -> None:
    build, last = stages(recipe)
    # Both stages from one base, so that what the first one installed runs in the second.
    assert said(build, "FROM") == ["docker.io/library/python:3.11-slim-bookworm AS build"]
    assert said(last, "FROM") == ["docker.io/library/python:3.11-slim-bookworm"]
    # Nothing is installed there: no compiler, no package lists, no pip cache.
    assert [rest for rest in said(last, "RUN") if re.search(r"\b(apt|apt-get|pip|gcc|curl)\b", rest)] == []
    assert said(last, "COPY") == ["--from=build /venv /venv", "--from=build /app /app"]
    assert said(last, "USER") == ["10001:10001"]
    assert len(said(last, "HEALTHCHECK")) == 1
    assert said(last, "CMD") == [f'["python", "-m", "{recipe.stem}"]']
    # A signal must reach the service itself.
    assert said(last, "ENTRYPOINT") == []


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_what_is_installed_is_pinned(recipe: Path) -> None:
    (build, _) = stages(recipe)
    installs = [rest for rest in said(build, "RUN") if "pip" in rest]
    assert all("--no-cache-dir" in rest for rest in installs)
    assert "-c constraints.txt" in installs[0]
    # And listed, with what the base has.
    listing = f"/venv/bin/python -m deploy.sbom corolla-{recipe.stem} > sbom.cdx.json"
    assert any(listing in rest for rest in said(build, "RUN"))


def test_each_image_gets_the_packages_of_its_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    groups = PROJECT["optional-dependencies"]
    assert names("gateway") == sorted({*PROJECT["dependencies"], *groups["gateway"]})
    assert "torch" not in names("gateway")
    assert names("worker") == sorted({*PROJECT["dependencies"], *groups["worker"]})
    with pytest.raises(KeyError):
        names("nobody")


def test_only_what_the_images_need_is_sent_to_the_builder() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    copied = {
        source.partition("/")[0]
        for recipe in RECIPES
        for rest in said(stages(recipe)[0], "COPY")
        for source in rest.split()[:-1]
        if not source.startswith("$")
    }
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert copied | {"constraints*.txt"} == allowed | {"constraints.txt"}
