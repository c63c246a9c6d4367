"""What the shim repairs, and what it must leave alone."""

import gc
import subprocess
import sys
import threading
import types

import pytest

from worker import petals_compat


def test_missing_names_are_put_back_and_present_ones_kept() -> None:
    module = types.ModuleType("hivemind")
    module.PeerID = "its own"  # type: ignore[attr-defined]
    petals_compat.restore_names(module)
    names = [name for names in petals_compat._HOMES.values() for name in names]
    assert [name for name in names if not hasattr(module, name)] == []
    assert module.PeerID == "its own"


def test_log_handlers_of_the_application_stay_the_only_ones() -> None:
    program = """
import logging
logging.basicConfig(level=logging.INFO)
handlers = list(logging.getLogger().handlers)
from worker import petals_compat
import petals.cli.run_server
assert logging.getLogger().handlers == handlers
assert logging.getLogger("asyncio").level == logging.NOTSET
for name in ("petals", "hivemind"):
    assert (logging.getLogger(name).handlers, logging.getLogger(name).propagate) == ([], True)
assert logging.getLogger("hivemind.p2p").getEffectiveLevel() == logging.INFO
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


def test_the_import_brings_no_warning_from_the_libraries() -> None:
    program = "import warnings; warnings.simplefilter('error'); import worker.petals_compat"
    done = subprocess.run([sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True)
    assert done.stderr == ""


def test_a_collected_session_is_not_closed_over_the_network() -> None:
    closed = []

    class Session(petals_compat.inference_session.InferenceSession):  # type: ignore[misc, name-defined]
        def close(self, *details: object) -> None:
            closed.append(self)

    Session([], 8)
    gc.collect()
    assert closed == []


@pytest.mark.parametrize(("state", "looks"), [("ONLINE", []), ("JOINING", [False]), ("OFFLINE", [False])])
def test_the_swarm_is_looked_at_anew_where_no_server_of_a_block_can_be_used(state: str, looks: list[bool]) -> None:
    from hivemind.dht.node import Blacklist
    from petals.client.routing import RemoteSequenceManager
    from petals.client.routing.sequence_info import RemoteSequenceInfo
    from petals.data_structures import RemoteModuleInfo, ServerInfo, ServerState

    # given a block of two servers
    asked: list[bool] = []
    info = RemoteSequenceInfo.make_empty(["x.0"])
    servers = {"a": ServerInfo(ServerState.ONLINE, 1.0), "b": ServerInfo(ServerState[state], 1.0)}
    info.update_([RemoteModuleInfo("x.0", servers)])
    known = types.SimpleNamespace(sequence_info=info, banned_peers=Blacklist(15, 2.0))
    manager = types.SimpleNamespace(
        state=known, lock_changes=threading.Lock(), ready=threading.Event(), update=lambda *, wait: asked.append(wait)
    )
    # when one of them fails
    RemoteSequenceManager.on_request_failure(manager, "a")
    # then
    assert [span.peer_id for span in info.spans_containing_block[0]] == (["b"] if state == "ONLINE" else [])
    assert asked == looks
