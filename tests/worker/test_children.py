"""Children are watched."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest

from worker.children import watched

pytestmark = pytest.mark.anyio

WAIT = "import sys; sys.stdin.read()"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A child that lives until its input ends."""
    with subprocess.Popen([sys.executable, "-c", WAIT], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


async def test_a_child_that_ends_is_seen_at_once(child: subprocess.Popen[bytes]) -> None:
    ended = asyncio.Event()
    with watched(ended):
        await asyncio.sleep(0)
        assert not ended.is_set()
        child.kill()
        async with asyncio.timeout(30):
            await ended.wait()


async def test_what_ends_afterwards_is_of_no_concern(child: subprocess.Popen[bytes]) -> None:
    ended = asyncio.Event()
    with watched(ended):
        pass
    child.kill()
    await asyncio.to_thread(child.wait)
    assert not ended.is_set()
