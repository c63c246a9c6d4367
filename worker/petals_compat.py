"""Petals, made to work with the hivemind that installs, and tamed. Import it before `petals`, in clients and servers.

It works at import time, the one module here that does, because `import petals` fails without it:
  - names that Petals expects on the `hivemind` module are put back; names that are there are left alone;
  - hivemind's and Petals' log lines go to the root logger, which belongs to the application;
  - inference sessions never use the network from `__del__`, and a close is bounded in time;
  - a server that failed is not chosen again before the swarm is looked at anew;
  - the DHT process, with its p2pd, ends when its parent is gone, killed or not;
  - a server does not ask the package index, without a time limit, whether a newer Petals exists.
"""

import importlib
import os
import threading
import time
import types
import warnings
from concurrent.futures import Future
from typing import Any

os.environ.setdefault("PETALS_LOGGING", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it concerns batches only, and does not survive a fork

CLOSE_TIMEOUT_S = 5.0
_PARENT_CHECK_S = 1.0

_HOMES = {
    "hivemind.p2p": ("PeerID", "P2P", "P2PContext"),
    "hivemind.dht": ("DHTNode",),
    "hivemind.utils.tensor_descr": ("BatchTensorDescriptor", "TensorDescriptor"),
    "hivemind.utils.timed_storage": ("MAX_DHT_TIME_DISCREPANCY_SECONDS", "TimedStorage", "get_dht_time"),
    "hivemind.utils.serializer": ("MSGPackSerializer",),
    "hivemind.utils.nested": ("nested_compare", "nested_flatten", "nested_pack"),
    "hivemind.utils.logging": ("get_logger",),
    "hivemind.utils.asyncio": ("anext",),
    "hivemind.compression": ("serialize_torch_tensor", "deserialize_torch_tensor", "deserialize_tensor_stream"),
}


def restore_names(target: types.ModuleType) -> None:
    """Give `target` (hivemind) every name of `_HOMES` that it lacks."""
    for home, names in _HOMES.items():
        module = importlib.import_module(home)
        for name in names:
            if not hasattr(target, name):
                setattr(target, name, getattr(module, name))


with warnings.catch_warnings():  # of old interfaces that these packages use among themselves
    warnings.simplefilter("ignore")
    import hivemind
    import hivemind.utils.logging as hivemind_logging

    # Petals asks for "in_root_logger" when it is imported, which would take the root logger's own handlers away.
    hivemind_logging.use_hivemind_log_handler("nowhere")
    hivemind_logging.use_hivemind_log_handler = lambda where: None
    restore_names(hivemind)

    import petals.utils.version
    from hivemind.moe.client.remote_expert_worker import RemoteExpertWorker
    from petals.client import inference_session
    from petals.client.routing import RemoteSequenceManager

__all__ = ["CLOSE_TIMEOUT_S", "RemoteExpertWorker", "hivemind", "restore_names"]


def _close_server_session(self: Any) -> None:
    """End one server's stream. It counts as closed from here on, whatever becomes of the farewell message.

    Petals' own waits for the server without a limit, and leaves the session open when it fails.
    """
    if self.closed:
        return
    self.closed = True
    farewell: Future[None] = RemoteExpertWorker.run_coroutine(self._aclose_stream(), return_future=True)
    try:
        farewell.result(CLOSE_TIMEOUT_S)
    finally:
        farewell.cancel()
        self._outputs_stream = self._inputs_queue = None


def _collected(self: Any) -> None:
    """Garbage collection may run on the network loop's own thread, where waiting for the network never ends."""


_note_failure = RemoteSequenceManager.on_request_failure


def _leave_out_failed(self: Any, peer_id: Any) -> None:
    """Petals strikes the server off the list of each block, but chooses from spans, which it made of them before.

    It looks at the swarm anew where a list is empty, but not where those in it were about to begin, or to end, when it
    looked last: one that was restarted may be there again, unknown, when the other one goes.
    """
    _note_failure(self, peer_id)
    with self.lock_changes:
        info = self.state.sequence_info
        info.update_(info.block_infos)
        if not all(info.spans_containing_block):
            self.update(wait=False)


def _end_with_parent(dht: Any, parent: int) -> None:
    """Wait until the parent process is gone, then shut the DHT down as its `shutdown()` would."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    dht._outer_pipe.send(("_shutdown", [], {}))


_run_dht = hivemind.DHT.run


def _run_dht_with_parent(self: Any) -> None:
    threading.Thread(target=_end_with_parent, args=(self, os.getppid()), daemon=True).start()
    _run_dht(self)


inference_session._ServerInferenceSession.close = _close_server_session
inference_session._ServerInferenceSession.__del__ = _collected
inference_session.InferenceSession.__del__ = _collected
RemoteSequenceManager.on_request_failure = _leave_out_failed
hivemind.DHT.run = _run_dht_with_parent
petals.utils.version.validate_version = lambda: None
