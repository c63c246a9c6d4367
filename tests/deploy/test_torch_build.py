"""The build of torch that the worker's image gets is the one that was asked for."""

import importlib.metadata
import subprocess
import sys

import pytest

from deploy.torch_build import complaint
from tests.services import ROOT

WHEELS = "https://download.pytorch.org/whl"


@pytest.mark.parametrize(
    ("index", "version"),
    [
        (f"{WHEELS}/cpu", "2.13.0+cpu"),
        (f"{WHEELS}/cu130/", "2.13.0+cu130"),
        (f"{WHEELS}/rocm6.4", "2.13.0+rocm6.4"),
        # Nothing was asked for.
        ("", "2.13.0"),
        ("https://mirror.example/simple", "2.13.0+cpu"),
    ],
)
def test_the_build_that_was_asked_for(index: str, version: str) -> None:
    assert complaint(index, version) is None


@pytest.mark.parametrize("version", ["2.13.0", "2.13.0+cu126", "2.13.0+cpu"])
def test_another_build_is_told_of(version: str) -> None:
    assert complaint(f"{WHEELS}/cu130", version) == (
        f"TORCH_INDEX asks for torch's build cu130, but {version} is what was found: has {WHEELS}/cu130 this version?"
    )


def test_another_build_ends_the_making_of_the_image() -> None:
    command = [sys.executable, "-m", "deploy.torch_build", f"{WHEELS}/cu1"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    said = complaint(f"{WHEELS}/cu1", importlib.metadata.version("torch"))
    assert (done.returncode, done.stderr) == (1, f"{said}\n")
