"""WebSocket /api/v2/generate with real sockets, over a real broker."""

import asyncio
import contextlib
import json
import os
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.typing import Origin

from gateway import petals_socket, petals_ws
from shared.broker import INTERRUPTED, Broker
from shared.errors import BrokerUnavailable
from shared.messages import FinishReason
from tests.dialogue import Dialogue, Reply, dialogue
from tests.gateway.conftest import MODEL, Serve, Served
from tests.gateway.player import Performance, Player
from tests.valkey import Valkey
from tests.waiting import until_async

pytestmark = pytest.mark.anyio

STREAM = {"inputs": "hi", "max_new_tokens": 1, "stop_sequence": "###"}


async def closed(socket: Dialogue) -> int:
    """The code with which the gateway closes; nothing is said before that."""
    with pytest.raises(ConnectionClosed) as caught:
        await socket.receive()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


def sessions(valkey: Valkey) -> set[str]:
    return {str(key, "ascii") for key in valkey.client.scan_iter("{p}:session:*")}


async def test_the_example_of_the_original(gateway: Served, player: Player) -> None:
    # given open and generate without waiting for replies
    async with player.playing(" the", " mat"), dialogue(gateway.ws_url) as socket:
        await socket.send({"type": "open_inference_session", "model": MODEL, "max_length": 30})
        sampling = {"do_sample": 1, "temperature": 0.6, "top_p": 0.9}
        await socket.send({"type": "generate", "inputs": "A cat sat on", "max_length": 30, **sampling})
        first, second = await socket.receive(), await socket.receive()
    assert first == {"ok": True, "session_id": first["session_id"]}
    assert (second["ok"], second["outputs"], second["stop"], second["token_count"]) == (True, " the mat", True, 2)


async def test_tokens_come_as_they_are_made(gateway: Served, player: Player) -> None:
    async with dialogue(gateway.ws_url) as socket:
        await socket.open(max_length=64)
        await socket.send({"type": "generate", **STREAM})
        performance = await player.take()
        for text in (" a", " b"):
            await performance.say(text)
            assert (await socket.receive())["outputs"] == text
        await performance.finish("###", reason=FinishReason.STOP)
        last = await socket.receive()
    job = performance.claim.job
    assert last == {
        "ok": True,
        "outputs": "###",
        "stop": True,
        "token_count": 1,
        "job_id": job,
        "seq": 3,
        "reason": "stop",
        "kept": True,
    }


async def test_two_turns_in_a_session(gateway: Served, player: Player) -> None:
    async with player.playing("x", "###"), dialogue(gateway.ws_url) as socket:
        await socket.open(max_length=64)
        assert [await socket.text(**STREAM) for _ in range(2)] == ["x###", "x###"]


async def test_a_disconnect_ends_session_and_job_at_once(serve: Serve, player: Player, valkey: Valkey) -> None:
    # given that the client would have long to come back, had it said that it may
    async with serve(resume_grace_s=300) as gateway:
        async with dialogue(gateway.ws_url) as socket:
            await socket.open(max_length=64)
            await socket.send({"type": "generate", **STREAM})
            performance = await player.take()
            await performance.say("a")
            socket.socket.transport.abort()
        await performance.until_cancelled()
        await until_async(lambda: sessions(valkey) == set())


async def test_cancel_keeps_the_session(gateway: Served, player: Player) -> None:
    async with dialogue(gateway.ws_url) as socket:
        await socket.open(max_length=64)
        await socket.send({"type": "generate", **STREAM})
        performance = await player.take()
        await performance.say("a")
        assert (await socket.receive())["outputs"] == "a"
        await socket.send({"type": "cancel"})
        await performance.until_cancelled()
        await performance.finish(reason=FinishReason.CANCELLED)
        last = await socket.receive()
        assert (last["outputs"], last["stop"], last["seq"]) == ("", True, 1)
        async with player.playing("x", "###"):
            assert await socket.text(**STREAM) == "x###"


async def test_cancel_before_any_worker_took_the_job(gateway: Served) -> None:
    async with dialogue(gateway.ws_url) as socket:
        for message in ({"type": "open_inference_session", "max_length": 64}, {"type": "generate", **STREAM}):
            await socket.send(message)
        await socket.send({"type": "cancel"})
        assert (await socket.receive()).keys() == {"ok", "session_id"}
        last = await socket.receive()
    assert (last["ok"], last["outputs"], last["stop"]) == (True, "", True)


async def test_the_place_in_the_queue(serve: Serve, broker: Broker) -> None:
    async with serve() as gateway, dialogue(gateway.ws_url) as socket:
        await socket.open(max_length=64, progress=True)
        await socket.send({"type": "generate", **STREAM})
        queued = await socket.receive()
        player = Player(broker, (MODEL,))
        await (await player.take()).finish("###")
        replies = [reply async for reply in socket.replies()]
    assert queued == {"ok": True, "queued": 1, "stop": False, "outputs": "", "token_count": 0}
    assert [reply["outputs"] for reply in replies if "queued" not in reply] == ["###"]


async def test_the_same_job_id_twice_is_one_job(gateway: Served, player: Player) -> None:
    message = {**STREAM, "job_id": "ab" * 16}
    async with dialogue(gateway.ws_url) as socket:
        await socket.open(max_length=64)
        async with player.playing("x", "###"):
            first = [reply async for reply in socket.generate(**message)]
        second = [reply async for reply in socket.generate(**message)]
    assert first == second


async def begin(gateway: Served, player: Player) -> tuple[dict[str, Any], Performance]:
    """A resumable answer that is broken off after its first reply; its cursor."""
    async with dialogue(gateway.ws_url) as socket:
        opened = await socket.open(max_length=64, resumable=True)
        await socket.send({"type": "generate", **STREAM})
        performance = await player.take()
        await performance.say("a")
        reply = await socket.receive()
        socket.socket.transport.abort()
    cursor = {"session_id": opened["session_id"], "job_id": reply["job_id"], "after": reply["seq"]}
    return {"type": "resume", **cursor}, performance


@pytest.mark.parametrize("other", [False, True], ids=["at the same gateway", "at another one"])
async def test_resume(serve: Serve, player: Player, valkey: Valkey, other: bool) -> None:
    async with serve(resume_grace_s=1) as one, serve(resume_grace_s=1) as two:
        cursor, performance = await begin(one, player)
        # when the answer went on meanwhile
        await performance.say("b", "c")
        async with dialogue((two if other else one).ws_url) as socket:
            await socket.send(cursor)
            assert [(await socket.receive())["outputs"] for _ in range(2)] == ["b", "c"]
            # then nothing is cancelled when the first socket's grace is over
            members = f"{{p}}:sub:{performance.claim.job}"
            await until_async(lambda: valkey.client.scard(members) == 1)
            await asyncio.sleep(1.2 if not other else 0)
            await performance.finish("###")
            last = await socket.receive()
            # and the session goes on
            async with player.playing("x", "###"):
                again = await socket.text(**STREAM)
    assert (last["outputs"], last["stop"], last["seq"]) == ("###", True, 4)
    assert again == "x###"
    await until_async(lambda: sessions(valkey) == set())


async def test_a_resumable_answer_that_nobody_comes_back_for(
    serve: Serve, player: Player, broker: Broker, valkey: Valkey
) -> None:
    async with serve(resume_grace_s=1) as gateway:
        cursor, performance = await begin(gateway, player)
        assert await performance.is_running()
        # given up, it is not taken for a whole answer by a client that comes back too late
        key = f"{{p}}:job:{performance.claim.job}"
        await until_async(lambda: valkey.client.hget(key, "unfollowed") == b"1")
        valkey.client.zadd("{p}:due", {performance.claim.job: 1})
        await broker.sweep()
        async with dialogue(gateway.ws_url) as socket:
            await socket.send(cursor)
            reply = await socket.receive()
    assert reply == {"ok": False, "traceback": "RuntimeError: " + INTERRUPTED.message}


async def test_resume_after_an_unforeseen_error_of_the_gateway(
    gateway: Served, player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    async with dialogue(gateway.ws_url) as socket:
        opened = await socket.open(max_length=64, resumable=True)
        await socket.send({"type": "generate", **STREAM})
        performance = await player.take()
        await performance.say("a")
        reply = await socket.receive()
        # when
        with monkeypatch.context() as patch:
            patch.setattr(petals_ws.Dialogue, "event", lambda *_: 1 / 0)
            await performance.say("b")
            assert await closed(socket) == 1011
    # then it goes on
    async with dialogue(gateway.ws_url) as socket:
        cursor = {"session_id": opened["session_id"], "job_id": reply["job_id"], "after": reply["seq"]}
        await socket.send({"type": "resume", **cursor})
        assert (await socket.receive())["outputs"] == "b"
        await performance.finish("###")
        assert (await socket.receive())["stop"] is True


async def test_a_turn_that_the_broker_forgot_is_told(serve: Serve, player: Player, valkey: Valkey) -> None:
    async with serve() as one, serve() as two, player.playing("x", "###"):
        # given a dialogue over two gateways
        async with dialogue(one.ws_url) as socket:
            session = (await socket.open(max_length=64, resumable=True))["session_id"]
            message = {"type": "generate", **STREAM, "job_id": "cd" * 16}
            await socket.send(message)
            assert "".join([reply["outputs"] async for reply in socket.replies()]) == "x###"
            # also where a frame comes twice, which is one turn
            await socket.send(message)
            assert "".join([reply["outputs"] async for reply in socket.replies()]) == "x###"
            assert await socket.text(**STREAM) == "x###"
            socket.socket.transport.abort()
        async with dialogue(two.ws_url) as socket:
            await socket.send({"type": "resume", "session_id": session})
            assert (await socket.receive())["session_id"] == session
            assert await socket.text(**STREAM) == "x###"
            # when the broker loses the last turn
            valkey.client.hincrby(f"{{p}}:session:{session}", "ended", -1)
            # then the client is told
            await socket.send({"type": "generate", **STREAM})
            assert await socket.receive() == {"ok": False, "traceback": "RuntimeError: " + INTERRUPTED.message}


async def test_resume_after_an_attempt_that_the_broker_was_not_there_for(
    gateway: Served, player: Player, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a client that tries to go on while the broker is away
    cursor, performance = await begin(gateway, player)
    monkeypatch.setattr(petals_socket, "BRIEF_S", 0.2)
    valkey.write_through()
    valkey.kill()
    async with dialogue(gateway.ws_url) as socket:
        await socket.send(cursor)
        assert await socket.receive() == {"ok": False, "traceback": "ConnectionError: " + BrokerUnavailable().message}
        assert await closed(socket) == 1000
    # then it can when that is back
    valkey.start()
    await performance.finish("###")
    async with dialogue(gateway.ws_url) as socket:
        await socket.send(cursor)
        assert (await socket.receive())["stop"] is True
        async with player.playing("x", "###"):
            assert await socket.text(**STREAM) == "x###"


async def test_resume_of_a_session_and_the_generate_frame_once_more(serve: Serve, player: Player) -> None:
    message = {"type": "generate", **STREAM, "job_id": "cd" * 16}
    async with serve() as one, serve() as two:
        async with dialogue(one.ws_url) as socket:
            opened = await socket.open(max_length=64, resumable=True)
            await socket.send(message)
            performance = await player.take()
            socket.socket.transport.abort()
        async with dialogue(two.ws_url) as socket:
            await socket.send({"type": "resume", "session_id": opened["session_id"]})
            assert await socket.receive() == {"ok": True, "session_id": opened["session_id"]}
            await socket.send(message)
            await performance.finish("x", "###")
            replies = [reply async for reply in socket.replies()]
    assert [(reply["outputs"], reply["seq"]) for reply in replies] == [("x", 1), ("###", 2)]


@pytest.mark.parametrize("after", [2, 99])
async def test_a_cursor_beyond_the_log(serve: Serve, player: Player, after: int) -> None:
    async with serve() as gateway:
        cursor, _ = await begin(gateway, player)
        async with dialogue(gateway.ws_url) as socket:
            await socket.send({**cursor, "after": after})
            reply = await socket.receive()
            assert await closed(socket) == 1000
    text = "The stream was interrupted and cannot go on exactly; please send the request again"
    assert reply == {"ok": False, "traceback": f"RuntimeError: {text}"}


async def test_resume_of_what_never_was(gateway: Served) -> None:
    async with dialogue(gateway.ws_url) as socket:
        await socket.send({"type": "resume", "session_id": "ab" * 16, "job_id": "cd" * 16, "after": 1})
        reply = await socket.receive()
        assert await closed(socket) == 1000
    assert reply["traceback"] == f"""KeyError: "Session '{"ab" * 16}' expired or does not exist\""""


async def test_a_silent_socket_is_closed(serve: Serve, valkey: Valkey) -> None:
    async with serve(session_idle_s=1) as gateway, dialogue(gateway.ws_url) as socket:
        await socket.open(max_length=64)
        reply = await socket.receive()
        assert await closed(socket) == 1000
        await until_async(lambda: sessions(valkey) == set())
    assert reply == {"ok": False, "traceback": "TimeoutError: No message came for 1 s, so the session is closed"}


async def test_a_socket_that_waits_for_its_answer_is_not_silent(serve: Serve, player: Player) -> None:
    async with serve(session_idle_s=1) as gateway, dialogue(gateway.ws_url) as socket:
        await socket.open(max_length=64)
        await socket.send({"type": "generate", **STREAM})
        performance = await player.take()
        await asyncio.sleep(1.3)
        await performance.finish("###")
        assert (await socket.receive())["outputs"] == "###"


async def test_pings(serve: Serve) -> None:
    async with serve(ping_s=0.1) as gateway, connect(gateway.ws_url, ping_interval=None) as socket:
        pinged = asyncio.Event()
        receive = socket.protocol.recv_frame

        def watch(frame: Frame) -> None:
            if frame.opcode is Opcode.PING:
                pinged.set()
            receive(frame)

        socket.protocol.recv_frame = watch  # type: ignore[method-assign]
        await asyncio.wait_for(pinged.wait(), 20)


async def test_no_compression(gateway: Served) -> None:
    async with connect(gateway.ws_url, compression="deflate") as socket:
        assert socket.response is not None
        assert "sec-websocket-extensions" not in socket.response.headers


async def test_a_frame_over_the_limit_is_refused_in_words(gateway: Served) -> None:
    async with dialogue(gateway.ws_url) as socket:
        await socket.open(max_length=64)
        await socket.send({"type": "generate", "inputs": "x" * (300 << 10), "max_new_tokens": 1})
        reply = await socket.receive()
        assert await closed(socket) == 1000
    size = len(json.dumps({"type": "generate", "inputs": "x" * (300 << 10), "max_new_tokens": 1}))
    text = f"ValueError: A message may have at most 262144 bytes, but has {size}"
    assert reply == {"ok": False, "traceback": text}


async def test_a_frame_far_over_the_limit_is_cut_off(gateway: Served) -> None:
    async with dialogue(gateway.ws_url) as socket:
        with contextlib.suppress(ConnectionClosed):
            await socket.send("x" * (2 << 20))
        assert await closed(socket) == 1009


async def test_a_text_that_is_no_utf8(gateway: Served, caplog: pytest.LogCaptureFixture) -> None:
    async with dialogue(gateway.ws_url) as socket:
        await socket.socket.send(b"\xc3", text=True)
        assert await closed(socket) == 1007
    assert caplog.records == []


async def test_a_flood_is_cut_off(gateway: Served, player: Player) -> None:
    async with dialogue(gateway.ws_url) as socket:
        await socket.open(max_length=64)
        await socket.send({"type": "generate", **STREAM})
        performance = await player.take()
        for _ in range(65):
            await socket.send({"type": "generate", **STREAM})
        reply = await socket.receive()
        assert await closed(socket) == 1000
    assert reply["traceback"] == "ValueError: Too many messages wait while one is being answered"
    await performance.until_cancelled()


SECRET = {"model": "corolla/adapter", "max_length": 64}


@pytest.mark.parametrize(
    ("proxies", "forwarded", "origin", "allowed"),
    [
        ("", None, "http://{}", True),
        ("", None, "https://{}", False),
        ("", None, "http://elsewhere.example", False),
        ("", None, None, False),
        ("", "https", "https://{}", False),
        ("127.0.0.1", "https", "https://{}", True),
        ("127.0.0.1", "https", "http://{}", False),
    ],
)
async def test_a_model_without_a_public_api_is_for_our_own_pages(
    serve: Serve, proxies: str, forwarded: str | None, origin: str | None, allowed: bool
) -> None:
    async with serve(trusted_proxies=proxies) as gateway:
        headers = {"X-Forwarded-Proto": forwarded} if forwarded else {}
        own = origin.format(gateway.url.removeprefix("http://")) if origin else None
        async with dialogue(gateway.ws_url, origin=own, additional_headers=headers) as socket:
            reply = await socket.open(**SECRET)
    text = "ValueError: We do not provide public API for corolla/adapter due to license restrictions"
    assert reply["ok"] is allowed
    assert allowed or reply == {"ok": False, "traceback": text}


async def test_an_operator_may_keep_the_pages_of_others_out(serve: Serve) -> None:
    async with serve(cors_origins="https://chat.example") as gateway:
        for origin in ("https://chat.example", gateway.url, None):
            async with dialogue(gateway.ws_url, origin=origin) as socket:
                assert (await socket.open(max_length=64))["ok"] is True
        with pytest.raises(InvalidStatus) as refused:
            await connect(gateway.ws_url, origin=Origin("https://other.example"))
    assert refused.value.response.status_code == 403


async def test_32_answers_at_the_same_time(gateway: Served, player: Player) -> None:
    texts = [f" {number}" for number in range(30)]

    async def one() -> str:
        async with dialogue(gateway.ws_url) as socket:
            await socket.open(max_length=64)
            return await socket.text(**STREAM)

    async with player.playing(*texts):
        answers = await asyncio.gather(*(one() for _ in range(32)))
    assert answers == ["".join(texts)] * 32


async def test_a_client_that_reads_slowly_gets_everything(
    gateway: Served, player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.progress.STALL_TIMEOUT_S", 300.0)
    # given a client that reads nothing while more is written than waits for one reader
    word = os.urandom(512).hex()
    async with dialogue(gateway.ws_url, max_queue=1) as socket:
        await socket.open(max_length=64)
        await socket.send({"type": "generate", **STREAM})
        performance = await player.take()
        for number in range(4000):
            assert (await performance.say(f"{number} {word}")).status == "ok"
        await performance.finish("###")
        # when it reads
        replies = [reply async for reply in socket.replies()]
    # then nothing is missing
    assert [reply["outputs"] for reply in replies] == [*(f"{number} {word}" for number in range(4000)), "###"]


async def test_an_answer_that_cannot_be_resumed_is_finished_before_the_gateway_stops(
    serve: Serve, player: Player
) -> None:
    # given two sockets that cannot be resumed, one of them with an answer under way
    async with serve() as gateway:
        it, idle = Dialogue(await connect(gateway.ws_url)), Dialogue(await connect(gateway.ws_url))
        await it.open(max_length=64)
        await idle.open(max_length=64)
        await it.send({"type": "generate", **STREAM})
        performance = await player.take()
        await performance.say("a")
        assert (await it.receive())["outputs"] == "a"

        # when the gateway is told to stop, and the answer ends only after that
        async def finish_once_it_stops() -> list[Reply]:
            assert await closed(idle) == 1012
            await performance.finish("b")
            return [await it.receive()]

        finishing = asyncio.create_task(finish_once_it_stops())
    # then it is complete
    assert [reply["outputs"] for reply in await finishing] == ["b"]
    assert await closed(it) == 1012


async def test_answers_that_wait_in_line_are_given_before_the_gateway_stops(serve: Serve, player: Player) -> None:
    # given three messages, of which the first is being answered
    async with serve() as gateway:
        it, idle = Dialogue(await connect(gateway.ws_url)), Dialogue(await connect(gateway.ws_url))
        await it.open(max_length=64)
        for _ in range(3):
            await it.send({"type": "generate", **STREAM})
        performance = await player.take()
        # and a socket that was heard of later
        await idle.open(max_length=64)

        # when the gateway is told to stop
        async def finish_once_it_stops() -> list[str]:
            assert await closed(idle) == 1012
            await performance.finish("a")
            for text in ("b", "c"):
                await (await player.take()).finish(text)
            return [(await it.receive())["outputs"] for _ in range(3)]

        finishing = asyncio.create_task(finish_once_it_stops())
    # then each is answered
    assert await finishing == ["a", "b", "c"]
    assert await closed(it) == 1012


async def test_the_gateway_is_told_to_stop(serve: Serve, player: Player, valkey: Valkey) -> None:
    async with serve() as gateway:
        socket = await connect(gateway.ws_url)
        it = Dialogue(socket)
        opened = await it.open(max_length=64, resumable=True)
        await it.send({"type": "generate", **STREAM})
        performance = await player.take()
        await performance.say("a")
        assert (await it.receive())["outputs"] == "a"
    assert await closed(it) == 1012
    # a resumable answer goes on for whoever asks for it at another gateway
    assert not await performance.is_cancelled()
    assert sessions(valkey) >= {f"{{p}}:session:{opened['session_id']}"}
