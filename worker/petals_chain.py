"""Hidden states on their way through the servers of a swarm: a stream to each, on the event loop of whoever asks.

It speaks Petals' inference protocol itself, over hivemind's streams: Petals' own client crosses threads twice for every
server and token. What it needs beyond the public interface is checked once, by `can_stream`.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch

import worker.petals_compat as compat  # before petals, which cannot be imported without it

# isort: split
from hivemind.compression import deserialize_torch_tensor, serialize_torch_tensor
from hivemind.p2p import P2P
from hivemind.p2p.p2p_daemon_bindings import control, utils
from hivemind.proto import p2pd_pb2, runtime_pb2
from hivemind.utils.serializer import MSGPackSerializer
from petals.data_structures import CHAIN_DELIMITER
from petals.server.handler import TransformerConnectionHandler
from petals.utils.misc import DUMMY, DUMMY_INT64
from petals.utils.packaging import pack_args_kwargs

LARGE = 2**18  # numbers in a tensor whose conversion would hold up the event loop

_HANDLER = f"{TransformerConnectionHandler.__name__}.rpc_inference"
_NEEDED = (
    (P2P, ("daemon_listen_maddr", "MESSAGE_MARKER", "HEADER_LEN", "BYTEORDER")),
    (control, ("DaemonConnector",)),
    (utils, ("write_pbmsg", "read_pbmsg_safe", "raise_if_failed")),
    (TransformerConnectionHandler, ("rpc_inference",)),
)
_NO_ROOM = ("attention cache", "could not allocate", "cannot allocate", "allocationfailed")
_MARKED = len(P2P.MESSAGE_MARKER) + P2P.HEADER_LEN  # bytes before a message: its kind, and its length
_NEEDED_OF_MANAGER = (
    "state",
    "config",
    "block_uids",
    "rpc_info",
    "make_sequence",
    "get_request_metadata",
    "lock_changes",
)


class ServerError(Exception):
    """A server answered with an error, or with what is no answer."""


def lacks_room(error: Exception) -> bool:
    """Whether a server said that it has no room for an attention cache."""
    text = f"{type(error).__name__} {error}".lower()
    return any(sign in text for sign in _NO_ROOM)


class Chain(Protocol):
    """All blocks of a model, with an attention cache that is made at the first step."""

    async def step(self, hidden: torch.Tensor, parents: Sequence[int] | None) -> torch.Tensor:
        """Hidden states [rows, positions, size] behind the last block, for those before the first one.

        parents: the row whose cache each row goes on from. Raises whatever a server, the network or a library raises.
        """

    async def close(self) -> None:
        """Free the caches; never fails."""


def can_stream(manager: Any) -> bool:
    """Whether this Petals and this hivemind have what a StreamChain needs; `manager` knows the servers."""
    needed = (*_NEEDED, (manager, _NEEDED_OF_MANAGER))
    return all(name in dir(owner) for owner, names in needed for name in names)


@dataclasses.dataclass(frozen=True)
class _Leg:
    """The blocks of one server: its peer id, their names, and what it is told with the first request."""

    peer_id: Any
    start: int
    end: int
    uid: str
    metadata: dict[str, Any]


class _Stream:
    """The stream to one server."""

    def __init__(self, leg: _Leg, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.leg = leg
        self.session_id = str(uuid.uuid4())
        self.stepped = False
        self._reader = reader
        self._writer = writer

    @property
    def address(self) -> tuple[str, str, int, int]:
        """By which the server before may push its output here directly."""
        return self.leg.peer_id.to_base58(), self.session_id, self.leg.start, self.leg.end

    async def ask(self, tensors: Sequence[Any], metadata: dict[str, Any]) -> Any:
        """Send the tensors of one step; the answer's, still serialized."""
        told = {} if self.stepped else self.leg.metadata
        raw = MSGPackSerializer.dumps({**metadata, **told, "session_id": self.session_id})
        self._send(runtime_pb2.ExpertRequest(uid=self.leg.uid, tensors=tensors, metadata=raw))
        self.stepped = True
        await self._writer.drain()
        return (await self._receive()).tensors[0]

    def _send(self, request: Any) -> None:
        if self._writer.is_closing():  # uvloop would raise a RuntimeError
            raise ConnectionResetError
        data = request.SerializeToString()
        length = len(data).to_bytes(P2P.HEADER_LEN, P2P.BYTEORDER)
        self._writer.write(b"".join((P2P.MESSAGE_MARKER, length, data)))

    async def _receive(self) -> Any:
        head = await self._reader.readexactly(_MARKED)
        data = await self._reader.readexactly(int.from_bytes(head[-P2P.HEADER_LEN :], P2P.BYTEORDER))
        if not head.startswith(P2P.MESSAGE_MARKER):
            raise ServerError(p2pd_pb2.RPCError.FromString(data).message)
        return runtime_pb2.ExpertResponse.FromString(data)

    async def close(self) -> None:
        """Tell the server, and wait for its end of the stream; a server that hangs is not waited for."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(compat.CLOSE_TIMEOUT_S):
                if self.stepped:
                    self._send(runtime_pb2.ExpertRequest())
                    await self._reader.read()
        self._writer.close()


async def _open(p2p: Any, leg: _Leg) -> _Stream:
    """A stream to the server, through our p2pd. hivemind's own way leaves a connection behind where that fails."""
    reader, writer = await control.DaemonConnector(p2p.daemon_listen_maddr).open_connection()
    try:
        wish = p2pd_pb2.StreamOpenRequest(peer=leg.peer_id.to_bytes(), proto=[_HANDLER])
        await utils.write_pbmsg(writer, p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_OPEN, streamOpen=wish))
        response = p2pd_pb2.Response()
        await utils.read_pbmsg_safe(reader, response)
        utils.raise_if_failed(response)
    except BaseException:
        writer.close()
        raise
    return _Stream(leg, reader, writer)


class StreamChain:
    """A Chain over streams. manager: Petals' routing; pool: for what blocks; max_length: positions to make room for."""

    def __init__(self, manager: Any, pool: ThreadPoolExecutor, max_length: int) -> None:
        self._manager = manager
        self._pool = pool
        self._max_length = max_length
        self._compression = runtime_pb2.CompressionType.NONE
        self._streams: list[_Stream] = []
        self._step_ids = map(str, itertools.count())

    async def step(self, hidden: torch.Tensor, parents: Sequence[int] | None) -> torch.Tensor:
        """See Chain."""
        if not self._streams:
            await self._connect()
        tensor = await self._convert(hidden.numel(), serialize_torch_tensor, hidden, self._compression)
        rest = (_NO_PROMPTS, _NO_PARENTS if parents is None else serialize_torch_tensor(torch.tensor(parents)))
        step = {"step_id": next(self._step_ids), "args_structure": _STRUCTURE}
        addresses = [stream.address for stream in self._streams] if self._streams[-1].stepped else []
        asked = self._streams[0]
        try:
            async with asyncio.timeout(self._manager.config.request_timeout):
                for place, asked in enumerate(self._streams, 1):
                    metadata = {**step, "next_servers": addresses[place:]} if addresses[place:] else step
                    tensor = await asked.ask((tensor, *rest), metadata)
        except Exception as error:
            await self._avoid(asked.leg, error)
            raise
        if not addresses:
            for stream in self._streams:
                self._pool.submit(self._manager.on_request_success, stream.leg.peer_id)
        output: torch.Tensor = await self._convert(hidden.numel(), deserialize_torch_tensor, tensor)
        if output.shape != hidden.shape:
            raise ServerError("the output has another shape than the input")
        return output

    async def close(self) -> None:
        """See Chain."""
        streams, self._streams = self._streams, []
        await asyncio.gather(*(stream.close() for stream in streams))

    async def _connect(self) -> None:
        route = await asyncio.get_running_loop().run_in_executor(self._pool, self._find_route)
        for leg in route:
            try:
                async with asyncio.timeout(self._manager.config.connect_timeout):
                    self._streams.append(await _open(self._manager.state.p2p, leg))
            except Exception as error:
                await self._avoid(leg, error)
                raise

    def _find_route(self) -> list[_Leg]:
        """The fastest way through the swarm. Waits for the network."""
        manager = self._manager
        self._compression = manager.rpc_info["inference_schema"][0][0].compression
        route = []
        for span in manager.make_sequence(mode="min_latency", cache_tokens_needed=self._max_length):
            uid = CHAIN_DELIMITER.join(manager.block_uids[span.start : span.end])
            metadata = manager.get_request_metadata("rpc_inference", uid, peer_id=span.peer_id)
            metadata |= {"max_length": self._max_length, "args_structure": _STRUCTURE}
            route.append(_Leg(span.peer_id, span.start, span.end, uid, metadata))
        return route

    async def _avoid(self, leg: _Leg, error: Exception) -> None:
        """The next chain goes over other servers, where there are any."""
        note = self._note_full if lacks_room(error) else self._manager.on_request_failure
        await asyncio.get_running_loop().run_in_executor(self._pool, note, leg.peer_id)  # it takes locks

    def _note_full(self, peer_id: Any) -> None:
        """The server is well: routes prefer others that have room, until it says anew how much it has itself."""
        with self._manager.lock_changes:
            for block in self._manager.state.sequence_info.block_infos:
                if server := block.servers.get(peer_id):
                    server.cache_tokens_left = 0

    async def _convert(self, size: int, convert: Callable[..., Any], *arguments: Any) -> Any:
        if size < LARGE:
            return convert(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._pool, convert, *arguments)


_, _STRUCTURE = pack_args_kwargs(torch.empty(1), DUMMY, DUMMY_INT64)
_NO_PROMPTS = serialize_torch_tensor(DUMMY)
_NO_PARENTS = serialize_torch_tensor(DUMMY_INT64)
