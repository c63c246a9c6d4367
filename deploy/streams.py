"""`python -m deploy.streams ADDRESS`: read many answers at once, over and over, and see that none loses a token.

Until SIGINT or SIGTERM; then the answers under way are read to their end, and a line of JSON says what was seen. Half
of the readers ask over WebSockets, the others by server-sent events, but for one that makes calls by HTTP, and one that
sends batches. A broken connection is made anew, and its answer resumed, as clients are meant to do; a call that got no
answer, or was told when to come back, is made again. Greedy answers are the same every time: each one is compared with
the first answer to its question, which was read before there was any other reader.
Exit status 1 where a text differed, an error was told, or a kind of reader got nothing; with --no-repeats also where a
call had to be made again.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import http.client
import itertools
import json
import secrets
import signal
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import CloseCode

QUESTIONS = ("hi", "How do I add a worker?", "How do I add a gateway?", "What is Corolla?", "How do I stop it?")
STOP = "###"
CHAT = "/v1/chat/completions"
TOKENS = 60  # of an HTTP call, and of the answers of a batch
LINES = 10  # of a batch
PATIENCE_S, BATCH_PATIENCE_S = 120.0, 300.0  # a batch whose process was killed is found a minute and a half later
PAUSE_S = 0.2
# Where a balancer goes, packets to it may just vanish.
CONNECT_S = 5.0
# What says that there is another gateway to go to.
MOVED = (CloseCode.GOING_AWAY, CloseCode.SERVICE_RESTART)

Reply = dict[str, Any]


class WrongError(Exception):
    """What a client must never see."""


@dataclasses.dataclass
class Seen:
    """What the readers have seen. answers: by kind of reader; resumed: answers that went on over another connection;
    repeated: calls that were made again, by reason."""

    answers: Counter[str] = dataclasses.field(default_factory=Counter)
    tokens: int = 0
    resumed: int = 0
    repeated: Counter[str] = dataclasses.field(default_factory=Counter)
    longest_silence_s: float = 0.0
    errors: list[str] = dataclasses.field(default_factory=list)


class Reader:
    """One client of the service at HOST:PORT."""

    def __init__(self, address: str, seen: Seen) -> None:
        self._address = address
        self._seen = seen

    async def stream(self, question: str) -> str:
        """An answer over a WebSocket, over as many connections as it takes."""
        pieces, end = list[str](), time.monotonic() + PATIENCE_S
        cursor: Reply = {}
        while time.monotonic() < end:
            try:
                async for reply in self._replies(question, cursor):
                    pieces.append(reply["outputs"])
                    self._seen.tokens += reply["token_count"]
                    if reply["stop"]:
                        return "".join(pieces)
            except (OSError, WebSocketException) as error:
                await self._again(error, bool(cursor))
        raise WrongError(f"no end within {PATIENCE_S:g} s")

    async def _again(self, error: Exception, resumed: bool) -> None:
        """The connection broke, or was refused: soon there is another one. Raises WrongError where it was answered."""
        self._note(error, resumed)
        await asyncio.sleep(PAUSE_S)

    def _note(self, error: Exception, resumed: bool) -> None:
        if fault := _fault(error):
            raise WrongError(fault)
        self._seen.resumed += resumed
        if not resumed:
            self._seen.repeated[f"{type(error).__name__}: {error}"] += 1

    async def _replies(self, question: str, cursor: Reply) -> AsyncIterator[Reply]:
        """Replies of one connection; `cursor` is the frame by which the next one resumes."""
        async with connect(f"ws://{self._address}/api/v2/generate", open_timeout=15) as talk:
            if cursor:
                await talk.send(json.dumps(cursor))
                session = cursor["session_id"]
            else:
                session = await _ask(talk, question)
            before = time.monotonic()
            while True:
                reply = _checked(json.loads(await talk.recv()))
                silence_s, before = time.monotonic() - before, time.monotonic()
                self._seen.longest_silence_s = max(self._seen.longest_silence_s, silence_s)
                where = {"session_id": session, "job_id": reply["job_id"], "after": reply["seq"]}
                cursor.update({"type": "resume", **where})
                yield reply

    async def call(self, question: str) -> str:
        """The first TOKENS tokens of an answer by HTTP."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            try:
                reply = _checked(await asyncio.to_thread(_post, self._address, question))
            except (OSError, http.client.HTTPException) as error:
                await self._again(error, False)
            else:
                self._seen.tokens += TOKENS
                return str(reply["outputs"])
        raise WrongError(f"no answer within {PATIENCE_S:g} s")

    async def events(self, question: str) -> str:
        """An answer as server-sent events, over as many connections as it takes."""
        cursor, end = _Cursor(secrets.token_hex(8)), time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            try:
                return await asyncio.to_thread(self._chunks, question, cursor)
            except (OSError, http.client.HTTPException) as error:
                await self._again(error, bool(cursor.event))
        raise WrongError(f"no end within {PATIENCE_S:g} s")

    def _chunks(self, question: str, cursor: "_Cursor") -> str:
        with _call(self._address, *cursor.where(question), headers=cursor.headers) as answer:
            before, event = time.monotonic(), cursor.event
            for raw in answer:
                name, _, value = raw.decode().rpartition("\n")[0].partition(": ")
                silence_s, before = time.monotonic() - before, time.monotonic()
                self._seen.longest_silence_s = max(self._seen.longest_silence_s, silence_s)
                if name == "id":
                    event = value
                if (name, value) == ("data", "[DONE]"):
                    return cursor.text
                if name == "data":
                    self._seen.tokens += cursor.take(json.loads(value), event)
        raise http.client.IncompleteRead(b"")

    async def batch(self, question: str) -> str:
        """LINES times the same answer, as a batch."""
        line = {"method": "POST", "url": CHAT, "body": {**_dialogue(question), "max_tokens": TOKENS}}
        lines = [json.dumps({"custom_id": str(number), **line}) for number in range(LINES)]
        end = time.monotonic() + BATCH_PATIENCE_S
        while time.monotonic() < end:
            try:
                texts = await asyncio.to_thread(self._batch, "\n".join(lines), end)
            except (OSError, http.client.HTTPException) as error:
                await self._again(error, False)
            else:
                if len(texts) != LINES or len(set(texts)) != 1:
                    raise WrongError(f"{LINES} equal answers are not {texts!r}")
                return texts[0]
        raise WrongError(f"no batch within {BATCH_PATIENCE_S:g} s")

    def _batch(self, lines: str, end: float) -> list[str]:
        """The texts that came of a batch of these lines. Raises OSError."""
        form = (
            '--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--x\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{lines}\r\n--x--\r\n'
        )
        file = _json(self._address, "/v1/files", form.encode(), content_type="multipart/form-data; boundary=x")
        batch = _json(self._address, "/v1/batches", {"input_file_id": file["id"], "endpoint": CHAT})
        while batch["status"] != "completed":
            if time.monotonic() > end or batch["status"] in ("failed", "expired", "cancelled"):
                raise WrongError(f"the batch is {batch['status']}")
            time.sleep(PAUSE_S)
            # Who asks once more does no harm.
            try:
                batch = _json(self._address, f"/v1/batches/{batch['id']}")
            except (OSError, http.client.HTTPException) as error:
                self._note(error, False)
        with _call(self._address, f"/v1/files/{batch['output_file_id']}/content", None) as content:
            answers = [json.loads(line)["response"]["body"] for line in content]
        return [answer["choices"][0]["message"]["content"] for answer in answers]


@dataclasses.dataclass
class _Cursor:
    """How far an answer by server-sent events has come. key: by which a call that is made again is known."""

    key: str
    id: str = ""
    event: str = ""
    text: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """Of the next connection."""
        how = {"last-event-id": self.event} if self.event else {"idempotency-key": self.key}
        return {"x-resumable": "true", **how}

    def where(self, question: str) -> tuple[str, Reply | None]:
        """What the next connection asks: for the answer, or for the rest of it."""
        if self.event:
            return f"/v1/jobs/{self.id}/stream", None
        return CHAT, {**_dialogue(question), "stream": True}

    def take(self, chunk: Reply, event: str) -> int:
        """A chunk of it, which came as that event; whether it had text."""
        if "error" in chunk:
            raise WrongError(chunk["error"]["message"])
        self.id, self.event = chunk["id"], event
        piece = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
        self.text += piece
        return int(bool(piece))


def _fault(error: Exception) -> str | None:
    """What an error says that no client should be told; None where a connection was lost, or is to be made later."""
    match error:
        case urllib.error.HTTPError():
            return _fault_in(error.code, dict(error.headers.items()))
        case InvalidStatus(response=response):
            return _fault_in(response.status_code, dict(response.headers.raw_items()))
        case ConnectionClosed(rcvd=close) if close and close.code not in MOVED:
            return f"the WebSocket was closed: {error}"
    return None


def _fault_in(status: int, headers: Mapping[str, str]) -> str | None:
    if status in (429, 503) and "retry-after" in {name.lower() for name in headers}:
        return None
    return f"the status is {status}"


def _dialogue(question: str) -> Reply:
    return {"messages": [{"role": "user", "content": question}], "temperature": 0}


def _call(address: str, path: str, body: Reply | bytes | None, headers: dict[str, str] | None = None) -> Any:
    """An answer to read. Raises OSError where its status is an error."""
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address}{path}", raw, headers or {})
    return _opener.open(request, timeout=PATIENCE_S)


class _Connection(http.client.HTTPConnection):
    """One that is there soon, or not at all, however long an answer may take."""

    def connect(self) -> None:
        """As in http.client."""
        self.sock = socket.create_connection((self.host, self.port), CONNECT_S)
        self.sock.settimeout(self.timeout)


class _Handler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """See urllib."""
        return self.do_open(_Connection, request)


_opener = urllib.request.build_opener(_Handler)


def _json(address: str, path: str, body: Reply | bytes | None = None, **headers: str) -> Reply:
    with _call(address, path, body, {name.replace("_", "-"): value for name, value in headers.items()}) as answer:
        found: Reply = json.load(answer)
        return found


async def _ask(talk: ClientConnection, question: str) -> str:
    await talk.send(json.dumps({"type": "open_inference_session", "max_length": 256, "resumable": True}))
    opened = _checked(json.loads(await talk.recv()))
    fields = {"inputs": f"Human: {question}###Assistant:", "max_new_tokens": 1, "stop_sequence": STOP}
    await talk.send(json.dumps({"type": "generate", **fields}))
    return str(opened["session_id"])


def _post(address: str, question: str) -> Reply:
    fields = {"inputs": f"Human: {question}###Assistant:", "max_new_tokens": TOKENS}
    return _json(address, "/api/v1/generate", urllib.parse.urlencode(fields).encode())


def _checked(reply: Reply) -> Reply:
    if not reply["ok"]:
        raise WrongError(reply["traceback"])
    return reply


async def read_all(address: str, readers: int) -> Seen:
    """Read until a signal."""
    seen, stop = Seen(), asyncio.Event()
    # Names are resolved in threads too.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2 * readers))
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    reader = Reader(address, seen)
    streams = [reader.stream, reader.events] * (readers // 2)
    ways = [*streams[: readers - 2], reader.call, reader.batch]
    seen.answers.update({way.__name__: 0 for way in ways})
    truth = {(way.__name__, question): await way(question) for way in {*ways} for question in QUESTIONS}

    async def read(number: int) -> None:
        way = ways[number]
        for question in itertools.islice(itertools.cycle(QUESTIONS), number, None):
            if stop.is_set():
                return
            try:
                text = await way(question)
                if text != truth[way.__name__, question]:
                    raise WrongError(f"{text!r} is not {truth[way.__name__, question]!r}")
                seen.answers[way.__name__] += 1
            except WrongError as error:
                seen.errors.append(f"{way.__name__}: {error}")

    print(f"{readers} readers begin", flush=True)
    async with asyncio.TaskGroup() as group:
        for number in range(readers):
            group.create_task(read(number))
    return seen


def main() -> int:
    """Read, and tell; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.streams", description="Read many answers at once.")
    parser.add_argument("address", help="HOST:PORT of a gateway or a load balancer")
    parser.add_argument("--readers", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--no-repeats", action="store_true", help="no call may have to be made again")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        seen = asyncio.run(read_all(arguments.address, arguments.readers))
        print(json.dumps(vars(seen) | {"errors": Counter(seen.errors)}), flush=True)
        complete = all(seen.answers.values()) and not (arguments.no_repeats and seen.repeated)
        return int(bool(seen.errors) or not complete)
    return 130


if __name__ == "__main__":
    sys.exit(main())
