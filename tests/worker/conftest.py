"""A real swarm, for the tests of the worker's parts."""

from collections.abc import Iterator

import pytest

from tests.swarm import Swarm, make_model, running_swarm


@pytest.fixture(scope="session")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """Two servers with half of a tiny random model each, for as long as the tests run."""
    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    with running_swarm(folder) as swarm:
        yield swarm
