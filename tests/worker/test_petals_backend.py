"""Loading, joining and leaving a swarm."""

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from shared.catalog import Model
from tests.swarm import ROOT, Swarm
from tests.waiting import until, until_async
from tests.worker.petals_model import GREEDY, catalog_entry, load_tiny, loaded, step
from worker import petals_chain  # before hivemind, which petals cannot use without it

# isort: split
from hivemind.p2p.p2p_daemon_bindings import control

from worker.backend import Draw
from worker.petals_backend import ModelError, load
from worker.petals_public import PublicChain

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(180),
    # What hivemind leaves behind of a connection that broke is closed by garbage collection.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


async def test_streams_are_used_where_they_can_be_and_else_the_public_client(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with loaded(swarm) as backend:
        manager = backend._manager
        assert petals_chain.can_stream(manager)
        monkeypatch.delattr(control, "DaemonConnector")
        assert not petals_chain.can_stream(manager)
    async with loaded(swarm, streams=False) as backend:
        assert isinstance(backend.open(8)._chain, PublicChain)


async def test_stop_leaves_no_process_and_a_late_close_does_no_harm(swarm: Swarm) -> None:
    before = set(psutil.Process().children(recursive=True))
    backend = await asyncio.to_thread(load_tiny, swarm)
    session = backend.open(8)
    await step(session, [5], Draw(GREEDY, [5], 1))
    assert len(set(psutil.Process().children(recursive=True)) - before) == 2  # the DHT and its p2pd
    await backend.stop()
    await until_async(lambda: set(psutil.Process().children(recursive=True)) <= before)
    await session.close()


CLIENT = """
import asyncio, pathlib, sys
from shared.catalog import Model
from shared.sampling import SamplingParams
from worker.backend import Draw
from worker.petals_backend import load
folder, prefix, peer = sys.argv[1:]
async def main():
    model = Model("tiny", "Tiny", path=folder, dht_prefix=prefix)
    backend = load(model, pathlib.Path("/"), (peer,), "float32", "cpu", 4)
    await backend.open(8).step([[5]], [Draw(SamplingParams(), [5], 1)])
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_a_killed_client_is_small_and_leaves_no_process(swarm: Swarm) -> None:
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(swarm.model), swarm.dht_prefix, *swarm.peers],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"
    processes = [psutil.Process(client.pid), *psutil.Process(client.pid).children(recursive=True)]
    assert len(processes) >= 3
    assert sum(process.memory_full_info().pss for process in processes) < 700e6
    client.kill()
    client.wait()
    client.stdout.close()
    until(lambda: not any(_alive(process) for process in processes), 15)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _failure(folder: Path, swarm: Swarm, dht_prefix: str | None) -> str:
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(ModelError) as caught:
        load(Model("tiny", "Tiny", path="m", dht_prefix=dht_prefix), folder, swarm.peers, "float32", "cpu", 1)
    until(lambda: set(psutil.Process().children(recursive=True)) <= before)
    return str(caught.value)


def test_pickled_weights_are_refused(swarm: Swarm, tmp_path: Path) -> None:
    shutil.copytree(swarm.model, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({}, tmp_path / "m" / "pytorch_model.bin")
    failure = _failure(tmp_path, swarm, "tiny")
    assert (
        failure
        == "the model tiny cannot be loaded: its folder holds no model.safetensors (pickled weights are refused)"
    )


def test_a_missing_folder_is_one_clear_line(swarm: Swarm, tmp_path: Path) -> None:
    failure = _failure(tmp_path, swarm, "tiny")
    assert failure == f"the model tiny cannot be loaded: its folder {tmp_path / 'm'} does not exist"


def test_a_local_model_needs_the_swarms_name_for_it(swarm: Swarm, tmp_path: Path) -> None:
    shutil.copytree(swarm.model, tmp_path / "m")
    failure = _failure(tmp_path, swarm, None)
    assert failure == "the model tiny cannot be loaded: a model with a path needs a dht_prefix, its name in the swarm"


def test_a_swarm_that_cannot_be_joined_is_one_clear_line(swarm: Swarm) -> None:
    peer = re.sub(r"/tcp/\d+", "/tcp/1", swarm.peers[0])
    with pytest.raises(ModelError, match=r"^the model tiny cannot be loaded: Daemon failed to start: .*$"):
        load(catalog_entry(swarm), swarm.model.parent, (peer,), "float32", "cpu", 1)
