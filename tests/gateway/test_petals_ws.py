"""The WebSocket dialogue: frames and events in, actions out, without a loop."""

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.orders import Queued
from gateway.petals_ws import Action, Cancel, Close, Dialogue, Follow, Open, Rejoin, Rules, Send, Start
from shared.catalog import Catalog, Chat, Family, Model
from shared.errors import Code, CorollaError
from shared.messages import Ending, FinishReason, JobFailed, JobFinished, JobRequest, LogEntry, Token
from shared.sampling import SamplingParams

CHAT = Chat(max_session_length=2048)
CATALOG = Catalog(
    (
        Family(
            "Demo",
            (
                Model("corolla/demo", "Demo", aliases=("demo",), chat=CHAT),
                Model("corolla/secret", "Secret", public_api=False, chat=CHAT),
            ),
        ),
    ),
    Path(),
)
OPEN = {"type": "open_inference_session", "max_length": 64}
GENERATE = {"type": "generate", "inputs": "hi", "max_new_tokens": 1}
GREEDY = SamplingParams(seed=5)
S, J = f"{1:032x}", f"{2:032x}"
DONE = JobFinished(FinishReason.STOP)


def dialogue(same_origin: bool = False) -> Dialogue:
    """A new one; its ids are 1, 2, 3, ... as 32 hex digits."""
    numbers = count(1)
    rules = Rules(CATALOG, 1000, 2000, lambda: f"{next(numbers):032x}", lambda: 5)
    return Dialogue(rules, same_origin)


def opened(**fields: Any) -> Dialogue:
    it = dialogue()
    it.receive(frame({**OPEN, **fields}))
    it.opened()
    return it


def frame(message: Any) -> str:
    return json.dumps(message)


def sent(actions: list[Action]) -> list[dict[str, Any]]:
    """The messages that are sent; every action must be one."""
    return [json.loads(action.frame) for action in actions if isinstance(action, Send)]


def entry(first: int, *texts: str, ending: Ending | None = None) -> LogEntry:
    return LogEntry(first, tuple(Token(1, text) for text in texts), ending)


def reply(
    outputs: str, seq: int, token_count: int = 1, ending: JobFinished | None = None, job: str = J
) -> dict[str, Any]:
    told = {"ok": True, "outputs": outputs, "stop": False, "token_count": token_count, "job_id": job, "seq": seq}
    return told if ending is None else {**told, "stop": True, "reason": ending.reason.value, "kept": ending.kept}


def assert_failed(actions: list[Action], it: Dialogue, traceback: str) -> None:
    """An error in words, then a close with 1000, then silence."""
    assert [type(action) for action in actions] == [Send, Close]
    assert actions[1] == Close(1000)
    assert sent(actions) == [{"ok": False, "traceback": traceback}]
    assert it.closed
    assert it.receive(frame(OPEN)) == []


# Opening


def test_open_with_the_default_model() -> None:
    it = dialogue()
    assert it.receive(frame(OPEN)) == [Open(S, "corolla/demo", 64)]
    assert sent(it.opened()) == [{"ok": True, "session_id": S}]
    assert (it.session, it.resumable) == (S, False)


@pytest.mark.parametrize("length", [1024.0, "1024", 1024])
def test_open_with_an_alias_and_a_length_in_several_forms(length: object) -> None:
    message = {**OPEN, "model": "demo", "max_length": length}
    assert dialogue().receive(frame(message)) == [Open(S, "corolla/demo", 1024)]


def test_binary_frames_are_utf8_json() -> None:
    assert dialogue().receive(frame(OPEN).encode()) == [Open(S, "corolla/demo", 64)]


@pytest.mark.parametrize(
    ("message", "traceback"),
    [
        ({"model": "nobody"}, "KeyError: 'nobody'"),
        ({"max_length": None}, "ValueError: `max_length` of the session is required"),
        ({"max_length": 4.5}, "ValueError: `max_length` must be a whole number, but is '4.5'"),
        ({"max_length": 0}, "ValueError: `max_length` must be at least 1, but is 0"),
        ({"max_length": 2049}, "ValueError: `max_length` must be at most 2048 for corolla/demo, but is 2049"),
        (
            {"model": "corolla/secret"},
            "ValueError: We do not provide public API for corolla/secret due to license restrictions",
        ),
        ({"resumable": "yes"}, "ValueError: `resumable` must be 0, 1, true or false, but is 'yes'"),
    ],
)
def test_open_refused(message: dict[str, Any], traceback: str) -> None:
    it = dialogue()
    assert_failed(it.receive(frame({**OPEN, **message})), it, traceback)


def test_our_own_pages_may_use_a_model_without_a_public_api() -> None:
    message = {**OPEN, "model": "corolla/secret"}
    assert dialogue(same_origin=True).receive(frame(message)) == [Open(S, "corolla/secret", 64)]


def test_a_session_that_cannot_be_opened() -> None:
    it = dialogue()
    it.receive(frame(OPEN))
    full = CorollaError(Code.TOO_MANY_SESSIONS, "Too many opened inference sessions (max 3), please come back later")
    assert_failed(it.failed(full), it, f"ValueError: {full.message}")


@pytest.mark.parametrize(
    ("raw", "traceback"),
    [
        ("no json", "The message is not valid JSON in UTF-8"),
        ("", "The message is not valid JSON in UTF-8"),
        (b"\xc3", "The message is not valid JSON in UTF-8"),
        (b'{"type": "\xc3"}', "The message is not valid JSON in UTF-8"),
        ('{"type": "\\ud800"}', "The message is not valid JSON in UTF-8"),
        ("[" * 1990, "The message is not valid JSON in UTF-8"),
        ("[]", "The message must be a JSON object"),
        ("x" * 2001, "A message may have at most 2000 bytes, but has 2001"),
        ("{}", "`type` must be open_inference_session, generate, cancel or resume"),
        ('{"type": []}', "`type` must be open_inference_session, generate, cancel or resume"),
        (frame(GENERATE), "The first message must be of type open_inference_session"),
        ('{"type": "cancel"}', "The first message must be of type open_inference_session"),
    ],
)
def test_bad_first_frames(raw: str | bytes, traceback: str) -> None:
    it = dialogue()
    assert_failed(it.receive(raw), it, f"ValueError: {traceback}")


def test_a_second_open() -> None:
    it = opened()
    assert_failed(it.receive(frame(OPEN)), it, "ValueError: An inference session is open on this socket already")


# Generating


def test_one_reply_without_a_stop_sequence() -> None:
    it = opened()
    request = JobRequest("corolla/demo", GREEDY, "hi", max_new_tokens=3)
    assert it.receive(frame({**GENERATE, "max_new_tokens": 3})) == [Start(J, S, request)]
    assert it.event(entry(1, "a")) == []
    assert it.event(entry(2, "b")) == []
    assert sent(it.event(entry(3, "c", ending=DONE))) == [reply("abc", 3, 3, DONE)]


def test_a_stream_with_a_stop_sequence() -> None:
    it = opened()
    (start,) = it.receive(frame({**GENERATE, "stop_sequence": "###", "extra_stop_sequences": ["</s>"]}))
    request = JobRequest("corolla/demo", GREEDY, "hi", stop=("###",), extra_stop=("</s>",), partial=True)
    assert start == Start(J, S, request)
    assert sent(it.event(entry(1, " a"))) == [reply(" a", 1)]
    assert it.event(entry(2, "")) == []
    assert it.event(entry(3, "")) == []
    assert sent(it.event(entry(4, "✓"))) == [reply("✓", 4, 3)]
    assert sent(it.event(entry(5, "###", ending=DONE))) == [reply("###", 5, 1, DONE)]


def test_generate_again_in_the_same_session() -> None:
    it = opened()
    it.receive(frame(GENERATE))
    it.event(entry(1, "a", ending=DONE))
    (start,) = it.receive(frame({"type": "generate", "max_new_tokens": 2}))
    assert start == Start(f"{3:032x}", S, JobRequest("corolla/demo", GREEDY, None, max_new_tokens=2))


def test_pipelined_frames_wait_in_line() -> None:
    # given three frames at once
    it = dialogue()
    assert it.receive(frame(OPEN)) == [Open(S, "corolla/demo", 64)]
    assert it.receive(frame(GENERATE)) == []
    assert it.receive(frame({**GENERATE, "inputs": "more"})) == []
    # when the first one is done
    ok, start = it.opened()
    # then the second one's turn comes
    assert sent([ok]) == [{"ok": True, "session_id": S}]
    assert isinstance(start, Start)
    assert start.request.prompt == "hi"
    # and then the third one's
    told, following = it.event(entry(1, "a", ending=DONE))
    assert sent([told]) == [reply("a", 1, 1, DONE)]
    assert isinstance(following, Start)
    assert following.request.prompt == "more"


def test_an_error_in_line_comes_in_its_turn() -> None:
    it = opened()
    it.receive(frame(GENERATE))
    assert it.receive("no json") == []
    answer, error, close = it.event(entry(1, "a", ending=DONE))
    assert [message["ok"] for message in sent([answer, error])] == [True, False]
    assert close == Close(1000)


def test_too_many_frames_in_line() -> None:
    it = opened()
    it.receive(frame(GENERATE))
    for _ in range(64):
        assert it.receive(frame(GENERATE)) == []
    actions = it.receive(frame(GENERATE))
    assert_failed(actions, it, "ValueError: Too many messages wait while one is being answered")
    assert it.flooded
    assert it.event(entry(1, "a", ending=DONE)) == []


@pytest.mark.parametrize(
    ("fields", "traceback"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens` must be at least 1, but is 0"),
        ({"inputs": 3}, "`inputs` must be a string, but is '3'"),
        ({"inputs": "x" * 1001}, "`inputs` has 1001 characters, but at most 1000 are allowed"),
        ({"job_id": "mine"}, "`job_id` must be 32 hexadecimal digits, in lower case, but is 'mine'"),
    ],
)
def test_generate_refused(fields: dict[str, Any], traceback: str) -> None:
    it = opened()
    assert_failed(it.receive(frame({**GENERATE, **fields})), it, f"ValueError: {traceback}")


def test_overflow_of_a_single_call_delivers_nothing() -> None:
    it = opened()
    it.receive(frame({**GENERATE, "max_new_tokens": 99}))
    words = "Maximum length exceeded: prefix 0 + current 101 exceeds pre-allocated maximum 64"
    actions = it.event(entry(1, ending=JobFailed(Code.TOO_LONG, words)))
    assert_failed(actions, it, f"ValueError: {words}")


def test_overflow_of_a_stream_delivers_what_fits() -> None:
    it = opened()
    it.receive(frame({**GENERATE, "max_new_tokens": 2, "stop_sequence": "#"}))
    assert sent(it.event(entry(1, "a", "b"))) == [reply("ab", 2, 2)]
    told, error, close = it.event(entry(3, "c", ending=JobFailed(Code.TOO_LONG, "Maximum length exceeded")))
    assert sent([told, error]) == [reply("c", 3), {"ok": False, "traceback": "ValueError: Maximum length exceeded"}]
    assert close == Close(1000)


@pytest.mark.parametrize(
    ("code", "message", "traceback"),
    [
        (Code.CACHE_FULL, "no room", "RuntimeError: The attention cache is full: no room"),
        (Code.CACHE_FULL, "attention cache is full, wait", "RuntimeError: attention cache is full, wait"),
        (Code.TOO_LONG, "prompt", "ValueError: Maximum length exceeded: prompt"),
        (Code.SESSION_NOT_FOUND, "Session 'x' expired", "KeyError: \"Session 'x' expired\""),
        (Code.SWARM, "two\nlines", "ConnectionError: two lines"),
        (Code.DEADLINE, "late", "TimeoutError: late"),
        (Code.DISCONTINUITY, "broke", "RuntimeError: broke"),
    ],
)
def test_failures_in_words_that_clients_match(code: Code, message: str, traceback: str) -> None:
    it = opened()
    it.receive(frame(GENERATE))
    assert_failed(it.event(entry(1, ending=JobFailed(code, message))), it, traceback)


# Idle


def test_an_idle_dialogue_ends() -> None:
    it = opened()
    text = "TimeoutError: No message came for 300 s, so the session is closed"
    assert_failed(it.idle(300), it, text)


def test_a_dialogue_that_answers_is_not_idle() -> None:
    it = opened()
    it.receive(frame(GENERATE))
    assert it.idle(300) == []
    assert not it.closed


# Cancel, progress, resume


def test_cancel_ends_the_answer_and_keeps_the_session() -> None:
    it = opened()
    it.receive(frame({**GENERATE, "stop_sequence": "#"}))
    it.event(entry(1, "a"))
    assert it.receive('{"type": "cancel"}') == [Cancel(J)]
    cancelled = JobFinished(FinishReason.CANCELLED, kept=True)
    assert sent(it.event(entry(2, ending=cancelled))) == [reply("", 1, 0, cancelled)]
    assert it.receive('{"type": "cancel"}') == []
    assert [type(action) for action in it.receive(frame(GENERATE))] == [Start]


def test_cancel_of_an_answer_that_waits_in_line() -> None:
    it = dialogue()
    for message in (OPEN, GENERATE, {"type": "cancel"}):
        it.receive(frame(message))
    assert sent(it.opened()) == [
        {"ok": True, "session_id": S},
        {"ok": True, "outputs": "", "stop": True, "token_count": 0, "reason": "cancelled", "kept": False},
    ]
    assert not it.busy


def test_the_place_in_the_queue_only_for_who_asked() -> None:
    for progress, expected in (
        (True, [{"ok": True, "queued": 3, "stop": False, "outputs": "", "token_count": 0}]),
        (False, []),
    ):
        it = opened(progress=progress)
        it.receive(frame(GENERATE))
        assert sent(it.event(Queued(3))) == expected


def test_a_job_id_that_the_client_chose() -> None:
    it = opened()
    (start,) = it.receive(frame({**GENERATE, "job_id": "ab" * 16}))
    assert isinstance(start, Start)
    assert start.job == "ab" * 16
    assert sent(it.event(entry(1, "a", ending=DONE))) == [reply("a", 1, 1, DONE, "ab" * 16)]


def test_resume_goes_on_after_the_cursor() -> None:
    it = dialogue()
    message = {"type": "resume", "session_id": S, "job_id": J, "after": 7}
    assert it.receive(frame(message)) == [Rejoin(S)]
    assert it.rejoined("corolla/demo") == [Follow(J, S, 7)]
    assert it.resumable
    assert sent(it.event(entry(8, "h", "i"))) == [reply("h", 8), reply("i", 9)]
    assert sent(it.event(entry(10, "!", ending=DONE))) == [reply("!", 10, 1, DONE)]
    assert [type(action) for action in it.receive(frame(GENERATE))] == [Start]


def test_resume_of_a_session_alone() -> None:
    it = dialogue()
    assert it.receive(frame({"type": "resume", "session_id": S})) == [Rejoin(S)]
    assert sent(it.rejoined("corolla/demo")) == [{"ok": True, "session_id": S}]


def test_resume_of_a_session_that_is_gone() -> None:
    it = dialogue()
    expired = f"""KeyError: "Session '{S}' expired or does not exist\""""
    it.receive(frame({"type": "resume", "session_id": S}))
    gone = CorollaError(Code.SESSION_NOT_FOUND, f"Session '{S}' expired or does not exist")
    assert_failed(it.failed(gone), it, expired)


def test_resume_of_what_is_no_session() -> None:
    it = dialogue()
    expired = """KeyError: "Session '' expired or does not exist\""""
    assert_failed(it.receive(frame({"type": "resume"})), it, expired)


def test_resume_does_not_open_a_model_without_a_public_api() -> None:
    it = dialogue()
    it.receive(frame({"type": "resume", "session_id": S}))
    text = "ValueError: We do not provide public API for corolla/secret due to license restrictions"
    assert_failed(it.rejoined("corolla/secret"), it, text)


MESSAGES = st.fixed_dictionaries(
    {"type": st.sampled_from(["open_inference_session", "generate", "cancel", "resume", "sing", None])},
    optional={
        name: st.none() | st.booleans() | st.integers(-3, 100) | st.text(max_size=5) | st.just(S)
        for name in (
            "model",
            "max_length",
            "inputs",
            "max_new_tokens",
            "stop_sequence",
            "job_id",
            "session_id",
            "after",
        )
    },
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MESSAGES.map(frame) | st.text() | st.binary()))
def test_whatever_comes_every_error_closes_and_nothing_follows_a_close(frames: list[str | bytes]) -> None:
    it = dialogue()
    for raw in frames:
        waiting = it.receive(raw)
        while waiting:
            action = waiting.pop(0)
            match action:
                case Open():
                    waiting += it.opened()
                case Rejoin():
                    waiting += it.rejoined("corolla/demo")
                case Start() | Follow():
                    waiting += it.event(entry(1, "a", ending=DONE))
                case Close():
                    assert waiting == []
                    assert it.closed
