"""The shell around the WebSocket dialogue: reads frames, performs actions, ends what a vanished client left."""

import asyncio
import contextlib
from typing import TypeGuard

from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.callers import caller_of
from gateway.gateway import SESSION_MARGIN_S, Gateway
from gateway.guard import WRONG_KEY
from gateway.jobs import Run
from gateway.orders import Order
from gateway.origins import allowed_socket, same_origin
from gateway.patience import BRIEF_S, patiently
from gateway.petals_words import session_not_found
from gateway.petals_ws import Action, Cancel, Close, Dialogue, Follow, Open, Rejoin, Send, Start
from shared.errors import Code, CorollaError, Discontinuity
from shared.messages import JobRequest

# The close code of a client that is done (RFC 6455, 7.4.1); after any other one a resumable client may come back.
GOODBYE = 1000
# The close code of a server that comes back, or others in its stead (registered with IANA for RFC 6455).
RESTART = 1012
# Before the gateway stops: a client that was heard or answered less than so long ago may have a call on its way.
QUIET_S = 1.0


class PetalsSocket:
    """The endpoint WebSocket /api/v2/generate of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def serve(self, websocket: WebSocket) -> None:
        """One socket, from its handshake to its end."""
        if not allowed_socket(websocket, self._gateway.settings.cors_origins):
            await websocket.close()
            return
        await websocket.accept()
        conversation = _Conversation(websocket, self._gateway)
        with self._gateway.drain.told(conversation.leave):
            await conversation.run()


class _Conversation:
    def __init__(self, websocket: WebSocket, gateway: Gateway) -> None:
        self._websocket = websocket
        self._gateway = gateway
        self._caller = caller_of(websocket)
        self._dialogue = Dialogue(gateway.rules, same_origin(websocket))
        self._actions: asyncio.Queue[Action] = asyncio.Queue()
        self._run: Run | None = None
        self._cancelled = ""
        self._turns = 0  # jobs of the session that are known to have ended
        self._vanished = False
        self._clock = asyncio.get_running_loop().time
        self._active_at = self._clock()

    async def run(self) -> None:
        """Talk until either side ends it."""
        reader, performer = asyncio.create_task(self._read()), asyncio.create_task(self._perform_all())
        try:
            await asyncio.wait({reader, performer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reader, performer):
                task.cancel()
            results = await asyncio.gather(reader, performer, return_exceptions=True)
            broken = [result for result in results if _is_unforeseen(result)]
            may_return = self._dialogue.resumable and (self._vanished or self._dialogue.interrupted or broken)
            if self._dialogue.session and not may_return:
                self._gateway.jobs.close_session(self._dialogue.session, self._caller.account)
        for error in broken:
            raise error
        if self._dialogue.flooded:
            await self._perform_rest()

    def leave(self) -> bool:
        """The gateway stops: close after the answers that are asked for, unless the client goes on elsewhere."""
        if self._dialogue.resumable:
            return False
        quiet_at = self._active_at + QUIET_S
        asyncio.get_running_loop().call_at(quiet_at, self._actions.put_nowait, Close(RESTART))
        return True

    async def _read(self) -> None:
        """Feed frames to the dialogue until the client disconnects."""
        while not self._dialogue.flooded:
            actions = await self._hear()
            if actions is None:
                return
            for action in actions:
                if isinstance(action, Cancel):
                    await self._cancel(action.job)
                else:
                    self._actions.put_nowait(action)

    async def _hear(self) -> list[Action] | None:
        """What the next frame leads to, or that none came; None where the client has gone."""
        idle_s = self._gateway.settings.session_idle_s
        try:
            async with asyncio.timeout_at(self._active_at + idle_s):
                message = await self._websocket.receive()
        except TimeoutError:
            if self._dialogue.busy:
                self._active_at = self._clock()
            return self._dialogue.idle(idle_s) if self._clock() - self._active_at >= idle_s else []
        if message["type"] != "websocket.receive":
            self._vanished = message["code"] != GOODBYE
            return None
        self._active_at = self._clock()
        text = message.get("text")
        return self._dialogue.receive(message["bytes"] if text is None else text)

    async def _cancel(self, job: str) -> None:
        self._cancelled = job
        if self._run is not None:
            await self._run.cancel()

    async def _perform_all(self) -> None:
        """Perform actions in order until one closes the socket."""
        while not isinstance(action := await self._actions.get(), Close) or self._is_early(action):
            try:
                await self._perform(action)
            except CorollaError as error:
                await self._pass_on(self._dialogue.failed(error))
        await self._websocket.close(action.code)

    def _is_early(self, action: Close) -> bool:
        """Whether a gateway that stops has yet to answer what had waited in line; then its turn comes after that."""
        return action.code == RESTART and self._dialogue.busy

    async def _perform_rest(self) -> None:
        """After a flood: tell the client, without doing what else is in line."""
        with contextlib.suppress(WebSocketDisconnect):
            while not isinstance(action := self._actions.get_nowait(), Close):
                if isinstance(action, Send):
                    await self._send(action)
            await self._websocket.close(action.code)

    async def _perform(self, action: Action) -> None:
        broker, settings = self._gateway.broker, self._gateway.settings
        match action:
            case Send():
                await self._send(action)
            case Close():
                self._actions.put_nowait(action)
            case Open(session, model, max_length):
                idle_ms = (settings.session_idle_s + SESSION_MARGIN_S) * 1000
                asked = (session, model, max_length, idle_ms, settings.max_sessions, self._caller.account)
                await patiently(lambda: broker.open_session(*asked), BRIEF_S)
                await self._pass_on(self._dialogue.opened())
            case Rejoin(session):
                found = await patiently(lambda: broker.session(session, self._caller.account), BRIEF_S)
                if found is None:
                    raise session_not_found(session)
                self._turns = found.turns
                await self._pass_on(self._dialogue.rejoined(found.model))
            case Start(job, session, request):
                await self._require_key()
                await self._answer(self._order(job, session, request, 0))
            case Follow(job, session, after):
                await self._require_key()
                if await patiently(lambda: broker.note(job, self._caller.account), BRIEF_S) is None:
                    raise Discontinuity
                await self._answer(self._order(job, session, None, after))

    async def _require_key(self) -> None:
        """The guard saw the key when the socket was opened, which may be long ago. Raises CorollaError(REVOKED)."""
        account, keys = self._caller.account, self._gateway.keys
        if account and not await patiently(lambda: keys.counts(account), BRIEF_S):
            raise CorollaError(Code.REVOKED, WRONG_KEY)

    def _order(self, job: str, session: str, request: JobRequest | None, after: int) -> Order:
        caller, dialogue = self._caller, self._dialogue
        return Order(
            job,
            request,
            session,
            after=after,
            resumable=dialogue.resumable,
            progress=dialogue.progress,
            turns=self._turns,
            caller=caller,
        )

    async def _answer(self, order: Order) -> None:
        try:
            async with self._gateway.jobs.run(order) as self._run, contextlib.aclosing(self._run.events()) as events:
                if self._cancelled == order.job:
                    await self._run.cancel()
                async for event in events:
                    await self._pass_on(self._dialogue.event(event))
                self._turns += self._run.settled and self._run.is_new
        finally:
            self._run = None
            self._active_at = self._clock()

    async def _pass_on(self, actions: list[Action]) -> None:
        """Send what is to be sent now, so that a slow client slows its own job's reading down; queue the rest."""
        for action in actions:
            if isinstance(action, Send):
                await self._send(action)
            else:
                self._actions.put_nowait(action)

    async def _send(self, action: Send) -> None:
        try:
            await self._websocket.send_text(action.frame)
        except WebSocketDisconnect:
            self._vanished = True
            raise WebSocketDisconnect(1006) from None


def _is_unforeseen(result: BaseException | None) -> TypeGuard[Exception]:
    return isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect)
