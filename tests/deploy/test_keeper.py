import asyncio
import sys
from pathlib import Path

import pytest

from deploy import keeper
from deploy.keeper import GaveUp, Keeper, Service
from tests.waiting import until_async

pytestmark = pytest.mark.anyio


def service(code: str) -> Service:
    """A Python program, ready when it says so."""

    async def command() -> list[str]:
        return [sys.executable, "-c", code]

    async def is_ready(log: bytes) -> bool:
        return b"ready" in log

    return Service("thing", command, is_ready, " here", {"COROLLA_THING": "7"})


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "FIRST_PAUSE_S", 0.01)


async def test_what_never_gets_ready_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    said: list[str] = []
    code = "import sys; print('much'); sys.exit('the reason')"
    with pytest.raises(GaveUp) as error:
        await Keeper(service(code), tmp_path, said.append).keep()
    log = tmp_path / "log" / "thing.log"
    assert str(error.value) == f"thing does not start, it ended with status 1: the reason (more in {log})"
    assert said == [f"thing ended with status 1; starting it again in {pause} s" for pause in ("0.01", "0.02")]


async def test_what_was_ready_once_is_started_again_for_ever(tmp_path: Path) -> None:
    # given
    said: list[str] = []
    kept = Keeper(service("import time; print('ready', flush=True); time.sleep(0.3)"), tmp_path, said.append)
    keeping = asyncio.create_task(kept.keep())
    # then
    await until_async(lambda: sum(line.startswith("thing ready here (") for line in said) > keeper.MAX_FAILURES)
    assert said[1] == "thing ended with status 0; starting it again in 0.01 s"
    # and it is not, when it was stopped
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    await kept.stop(timeout_s=10)


async def test_it_gets_its_settings_and_time_to_end(tmp_path: Path) -> None:
    # given
    code = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("farewell")))
print("ready", os.environ["COROLLA_THING"], flush=True)
time.sleep(600)
"""
    kept = Keeper(service(code), tmp_path, lambda _: None)
    keeping = asyncio.create_task(kept.keep())
    await kept.ready.wait()
    # when
    keeping.cancel()
    await kept.stop(timeout_s=10)
    # then
    assert (tmp_path / "log" / "thing.log").read_text() == "ready 7\nfarewell\n"


async def test_what_does_not_end_is_killed(tmp_path: Path) -> None:
    # given
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
    kept = Keeper(service(code), tmp_path, lambda _: None)
    keeping = asyncio.create_task(kept.keep())
    await kept.ready.wait()
    # when
    keeping.cancel()
    async with asyncio.timeout(10):
        await kept.stop(timeout_s=0.1)
