"""The dialogue on WebSocket /api/v2/generate as a pure state machine: frames and events in, actions out.

    client: open_inference_session | resume, then any number of generate, and cancel at any time
    server: {"ok": true, ...} replies; {"ok": false, "traceback": ...} and a close after any error

Whoever drives it performs the actions in order, and reports what came of Open, Rejoin, Start and Follow by `opened`,
`rejoined`, `event` or `failed`. Between such an action and its end the dialogue is busy: frames wait in line.
"""

import dataclasses
from collections import deque
from collections.abc import Callable

import msgspec

from gateway.orders import Queued
from gateway.petals_fields import Fields, count, flag, identifier, parse_call, socket_request, text, whole
from gateway.petals_replies import Replies, Reply
from gateway.petals_words import failure, not_public, session_not_found
from shared.catalog import Catalog, Model
from shared.errors import Code, CorollaError, InvalidField
from shared.messages import FinishReason, JobFailed, JobFinished, JobRequest, LogEntry

MAX_QUEUED_FRAMES = 64
MAX_QUEUED_BYTES = 1 << 20
# Takes the place of a generate message that was cancelled before its turn came.
_CANCELLED: Fields = {}


@dataclasses.dataclass(frozen=True)
class Send:
    """Send this text frame."""

    frame: str


@dataclasses.dataclass(frozen=True)
class Close:
    """Close the socket; nothing follows."""

    code: int = 1000


@dataclasses.dataclass(frozen=True)
class Open:
    """Open a session; then call opened() or failed()."""

    session: str
    model: str
    max_length: int


@dataclasses.dataclass(frozen=True)
class Rejoin:
    """Look up a session that was opened elsewhere; then call rejoined() or failed()."""

    session: str


@dataclasses.dataclass(frozen=True)
class Start:
    """Run a job of the session; hand its events to event() until one ends it, or call failed()."""

    job: str
    session: str
    request: JobRequest


@dataclasses.dataclass(frozen=True)
class Follow:
    """Go on with a job that was started elsewhere, after that seq; as Start."""

    job: str
    session: str
    after: int


@dataclasses.dataclass(frozen=True)
class Cancel:
    """End a job that runs; perform at once, before what is in line."""

    job: str


Action = Send | Close | Open | Rejoin | Start | Follow | Cancel


@dataclasses.dataclass(frozen=True)
class Rules:
    """What every dialogue of a gateway keeps to. new_id: 32 hex digits; draw_seed: 0 .. 2**63 - 1."""

    catalog: Catalog
    max_prompt_chars: int
    max_frame_bytes: int
    new_id: Callable[[], str]
    draw_seed: Callable[[], int]


class Dialogue:
    """One socket's dialogue.

    same_origin: the socket belongs to one of our own pages, which may use models without a public API.
    session: the session's id, once one is open. resumable: its client may come back on another socket. interrupted: it
    ended because the gateway could not go on, which says nothing against the session.
    flooded: frames came faster than answers; the driver stops at once, without waiting for what is under way.
    """

    def __init__(self, rules: Rules, same_origin: bool) -> None:
        self._rules = rules
        self._same_origin = same_origin
        self._model: Model | None = None
        self._line: deque[tuple[Fields | CorollaError, int]] = deque()
        self._job: str | None = None
        self._replies = Replies(None, 0)
        self._pending: Fields = {}
        self.session = ""
        self.resumable = False
        self.progress = False
        self.busy = False
        self.closed = False
        self.interrupted = False
        self.flooded = False

    def receive(self, frame: str | bytes) -> list[Action]:
        """A frame from the client."""
        if self.closed:
            return []
        message = self._decode(frame)
        if not isinstance(message, CorollaError) and message.get("type") == "cancel" and self.session:
            return self._cancel()
        if not self.busy:
            return self._handle(message)
        self._line.append((message, len(frame)))
        if len(self._line) <= MAX_QUEUED_FRAMES and sum(size for _, size in self._line) <= MAX_QUEUED_BYTES:
            return []
        self.flooded = True
        return self._fail(CorollaError(Code.INVALID, "Too many messages wait while one is being answered"))

    def opened(self) -> list[Action]:
        """The session of Open is open."""
        return [_send({"ok": True, "session_id": self.session}), *self._next()]

    def rejoined(self, model: str) -> list[Action]:
        """The session of Rejoin is there, for the model of that key."""
        fields, self._pending = self._pending, {}
        try:
            self._model = self._allowed(model)
            job = identifier(fields, "job_id")
            after = whole(fields, "after") or 0
            chunk = count(fields, "max_new_tokens") or 1
        except CorollaError as error:
            return self._fail(error)
        if job is None:
            return self.opened()
        self._job, self._replies = job, Replies(chunk, max(after, 0))
        return [Follow(job, self.session, max(after, 0))]

    def event(self, event: LogEntry | Queued) -> list[Action]:
        """Something happened to the job of Start or Follow."""
        if self.closed:
            return []
        if isinstance(event, Queued):
            queued = {"ok": True, "queued": event.ahead, "stop": False, "outputs": "", "token_count": 0}
            return [_send(queued)] if self.progress else []
        sends: list[Action] = [self._reply(reply) for reply in self._replies.feed(event)]
        if isinstance(event.ending, JobFailed):
            return [*sends, *self._fail(CorollaError(event.ending.code, event.ending.message))]
        return [*sends, *self._next()] if event.ending else sends

    def failed(self, error: CorollaError) -> list[Action]:
        """Open, Rejoin, Start or Follow could not be done."""
        return self._fail(error)

    def idle(self, idle_s: float) -> list[Action]:
        """No frame came for that long."""
        if self.busy:
            return []
        return self._fail(CorollaError(Code.DEADLINE, f"No message came for {idle_s:g} s, so the session is closed"))

    def _decode(self, frame: str | bytes) -> Fields | CorollaError:
        limit = self._rules.max_frame_bytes
        try:
            raw = frame.encode() if isinstance(frame, str) else frame
            if len(raw) > limit:
                return CorollaError(Code.INVALID, f"A message may have at most {limit} bytes, but has {len(raw)}")
            message = msgspec.json.decode(raw)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return CorollaError(Code.INVALID, "The message is not valid JSON in UTF-8")
        if not isinstance(message, dict):
            return CorollaError(Code.INVALID, "The message must be a JSON object")
        return message

    def _handle(self, message: Fields | CorollaError) -> list[Action]:
        if isinstance(message, CorollaError):
            return self._fail(message)
        try:
            match message.get("type"), bool(self.session):
                case "open_inference_session", False:
                    return self._open(message)
                case "resume", False:
                    return self._rejoin(message)
                case "generate", True:
                    return self._generate(message)
                case "cancel", True:
                    return []
                case (("open_inference_session" | "resume"), True):
                    raise InvalidField("type", "An inference session is open on this socket already")
                case (("generate" | "cancel"), False):
                    raise InvalidField("type", "The first message must be of type open_inference_session")
            allowed = "open_inference_session, generate, cancel or resume"
            raise InvalidField("type", f"`type` must be {allowed}")
        except CorollaError as error:
            return self._fail(error)

    def _open(self, fields: Fields) -> list[Action]:
        model = self._allowed(text(fields, "model"))
        max_length = session_length(fields, model)
        if max_length is None:
            raise InvalidField("max_length", "`max_length` of the session is required")
        self.resumable, self.progress = flag(fields, "resumable"), flag(fields, "progress")
        self._model, self.session, self.busy = model, self._rules.new_id(), True
        return [Open(self.session, model.key, max_length)]

    def _rejoin(self, fields: Fields) -> list[Action]:
        session = text(fields, "session_id") or ""
        if identifier({"session_id": session or None}, "session_id") is None:
            raise session_not_found(session)
        self.session, self.resumable, self.progress = session, True, flag(fields, "progress")
        self._pending, self.busy = fields, True
        return [Rejoin(session)]

    def _generate(self, fields: Fields) -> list[Action]:
        assert self._model is not None
        call = parse_call(fields, self._rules.max_prompt_chars, self._rules.draw_seed)
        request, chunk = socket_request(call, self._model.key)
        job = identifier(fields, "job_id") or self._rules.new_id()
        self._job, self._replies, self.busy = job, Replies(chunk, 0), True
        return [Start(job, self.session, request)]

    def _allowed(self, name: str | None) -> Model:
        model = self._rules.catalog.find(name)
        if not (model.public_api or self._same_origin):
            raise not_public(model.key)
        return model

    def _cancel(self) -> list[Action]:
        """End the answer under way; where none is yet, the one that the client just asked for never starts."""
        if self._job is not None:
            return [Cancel(self._job)]
        for index in reversed(range(len(self._line))):
            message, _ = self._line[index]
            if not isinstance(message, CorollaError) and message.get("type") == "generate":
                self._line[index] = (_CANCELLED, 0)
                break
        return []

    def _next(self) -> list[Action]:
        """The work under way is done: on with what waits in line."""
        self._job, self.busy = None, False
        actions: list[Action] = []
        while self._line and not self.busy and not self.closed:
            message, _ = self._line.popleft()
            if message is _CANCELLED:
                content = {"ok": True, "outputs": "", "stop": True, "token_count": 0}
                actions.append(_send({**content, **_told(JobFinished(FinishReason.CANCELLED))}))
            else:
                actions += self._handle(message)
        return actions

    def _reply(self, reply: Reply) -> Send:
        content: dict[str, object] = {
            "ok": True,
            "outputs": reply.outputs,
            "stop": reply.ending is not None,
            "token_count": reply.token_count,
            "job_id": self._job,
            "seq": reply.seq,
        }
        return _send(content if reply.ending is None else {**content, **_told(reply.ending)})

    def _fail(self, error: CorollaError) -> list[Action]:
        self.closed, self.interrupted = True, error.code in (Code.BROKER, Code.DISCONTINUITY)
        self._line.clear()
        return [_send(failure(error)), Close()]


def session_length(fields: Fields, model: Model) -> int | None:
    """The field max_length of a session for `model`, None where absent. Raises InvalidField."""
    max_length = count(fields, "max_length")
    longest = model.chat.max_session_length
    if max_length is not None and max_length > longest:
        message = f"`max_length` must be at most {longest} for {model.key}, but is {max_length}"
        raise InvalidField("max_length", message)
    return max_length


def _told(ending: JobFinished) -> dict[str, object]:
    """What the last reply of an answer tells besides."""
    return {"reason": ending.reason, "kept": ending.kept}


def _send(content: dict[str, object]) -> Send:
    return Send(msgspec.json.encode(content).decode())
