"""A real private swarm for tests: Petals servers on loopback, each with half the blocks of a model.

`python -m tests.swarm FOLDER` serves the model in FOLDER until Ctrl-C; where there is none it makes a tiny random one.
"""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
BOOTSTRAP = """\
import logging, runpy
logging.basicConfig(level=logging.INFO)
import worker.petals_compat
runpy.run_module("petals.cli.run_server", run_name="__main__", alter_sys=True)
"""
CACHE_TOKENS = 16384
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 10.0


@dataclasses.dataclass(frozen=True)
class Swarm:
    """model: folder of weights and tokenizer; peers: multiaddresses to join by.

    servers: by peer id, a process group each; those of the first half before those of the second.
    """

    model: Path
    peers: tuple[str, ...]
    dht_prefix: str
    servers: dict[str, subprocess.Popen[bytes]]


def make_model(folder: Path) -> None:
    """The model of tests.tiny_model, made in a process of its own, so that torch stays out of this one."""
    subprocess.run([sys.executable, "-W", "ignore", "-m", "tests.tiny_model", str(folder)], cwd=ROOT, check=True)


def _start(model: Path, first: int, last: int, log: Path, *options: str) -> subprocess.Popen[bytes]:
    arguments = [str(model), "--block_indices", f"{first}:{last}", "--host_maddrs", "/ip4/127.0.0.1/tcp/0"]
    arguments += ["--throughput", "1", "--device", "cpu", "--torch_dtype", "float32", "--quant_type", "none"]
    arguments += ["--num_handlers", "2", "--attn_cache_tokens", str(CACHE_TOKENS), *options]
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-c", BOOTSTRAP, *arguments],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def _wait_for(server: subprocess.Popen[bytes], log: Path, pattern: str) -> str:
    """What the first group of `pattern` matches, as soon as the server has logged it."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (match := re.search(pattern, log.read_text(errors="replace"))):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the swarm server did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)
    return match[1]


def stop_group(leader: subprocess.Popen[bytes], first: signal.Signals = signal.SIGTERM) -> None:
    """End a process group of `start_new_session` and wait until nothing of it is left."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, first)
        while _members(leader.pid):
            leader.poll()
            if time.monotonic() > deadline:
                os.killpg(leader.pid, signal.SIGKILL)
            time.sleep(0.05)
    leader.wait()


def _members(group: int) -> list[int]:
    """Process ids of a group, zombies left out."""
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@contextlib.contextmanager
def running_swarm(model: Path, dht_prefix: str = "tiny", copies: int = 1) -> Iterator[Swarm]:
    """`copies` servers for each half of `model`, ready; on exit no process of theirs is left."""
    blocks: int = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    halves = [(0, blocks // 2)] * copies + [(blocks // 2, blocks)] * copies
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        logs = [Path(folder) / f"{number}.log" for number in range(len(halves))]
        servers = []
        joining = ["--new_swarm"]
        for log, half in zip(logs, halves, strict=True):
            servers.append(_start(model, *half, log, *joining, "--dht_prefix", dht_prefix))
            stack.callback(stop_group, servers[-1])
            if len(servers) == 1:
                joining = ["--initial_peers", _address(servers[0], log)]
        ids = [_address(server, log).rpartition("/")[2] for server, log in zip(servers, logs, strict=True)]
        for server, log in zip(servers, logs, strict=True):
            _wait_for(server, log, "(Started)")
        yield Swarm(model, (joining[1],), dht_prefix, dict(zip(ids, servers, strict=True)))


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    """The multiaddress of a server, which ends with its peer id."""
    return _wait_for(server, log, r"Running a server on \['([^']+)'")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    if not target.exists():
        make_model(target)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), running_swarm(target) as swarm:
        print(json.dumps({"peers": swarm.peers, "dht_prefix": swarm.dht_prefix}), flush=True)
        signal.pause()
