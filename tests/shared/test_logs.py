"""Logs are JSON lines, those of libraries too."""

import json
import subprocess
import sys

CODE = """
import logging
import structlog
from shared import logs
logs.configure("{level}")
log = structlog.get_logger()
log.debug("detail")
log.info("ready", worker="w1", slots=32)
log.error("job_broke", job="j1", error="ValueError")
logging.getLogger("some.library").info("chatter")
logging.getLogger("some.library").warning("trouble with %s", "something")
"""


def lines(level: str) -> list[dict[str, object]]:
    """What a process logs at this level, without the times."""
    command = [sys.executable, "-c", CODE.format(level=level)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout == ""
    found = [json.loads(line) for line in ended.stderr.splitlines()]
    assert all(line.pop("timestamp").endswith("Z") for line in found)
    return found


READY = {"event": "ready", "level": "info", "worker": "w1", "slots": 32}
BROKE = {"event": "job_broke", "level": "error", "job": "j1", "error": "ValueError"}
TROUBLE = {"event": "trouble with something", "level": "warning", "logger": "some.library"}


def test_events_of_a_level_and_above() -> None:
    assert lines("info") == [READY, BROKE, TROUBLE]
    assert lines("debug") == [{"event": "detail", "level": "debug"}, READY, BROKE, TROUBLE]
    assert lines("error") == [BROKE]


KEYS = """
import logging
import structlog
from shared import logs
logs.configure("info")
structlog.get_logger().info("request", path="/v1/jobs/0123456789abcdef.{secret}", status=404)
logging.getLogger("lib").warning("what is 0123456789abcdef.%s", "{secret}")
"""


def test_keys_are_cut_to_their_ids() -> None:
    command = [sys.executable, "-c", KEYS.format(secret="ab" * 16)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    mine, theirs = [json.loads(line) for line in ended.stderr.splitlines()]
    assert mine["path"] == "/v1/jobs/0123456789abcdef.***"
    assert theirs["event"] == "what is 0123456789abcdef.***"


BROKEN = """
import logging
import structlog
from shared import logs
logs.configure("info")
log = structlog.get_logger()
def work():
    raise ValueError("a secret")
def call():
    try:
        work()
    except ValueError as error:
        raise KeyError("another secret") from error
for tell in (lambda: log.error("mine", exc_info=True), lambda: logging.getLogger("lib").exception("theirs:\\nsecret")):
    try:
        call()
    except KeyError:
        tell()
call()
"""


def test_an_exception_is_its_type_and_its_places() -> None:
    ended = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    found = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["event"] for line in found] == ["mine", "theirs:", "unforeseen error, the process ends"]
    assert found[0]["exception"] == [
        "KeyError", "<string>:16 <module>", "<string>:13 call", "ValueError", "<string>:11 call", "<string>:8 work"
    ]  # fmt: skip
    assert [line["exception"][0] for line in found] == ["KeyError"] * 3
    assert "secret" not in ended.stderr


ASIDE = """
import sys
import threading
from shared import logs
logs.configure("info")
def work():
    raise ValueError("a secret")
class Thing:
    def __del__(self):
        work()
for job in (work, sys.exit):
    thread = threading.Thread(target=job, name="worker")
    thread.start()
    thread.join()
Thing()
"""


def test_an_exception_that_nobody_can_catch() -> None:
    ended = subprocess.run([sys.executable, "-c", ASIDE], capture_output=True, text=True, check=True)
    thread, finalizer = [json.loads(line) for line in ended.stderr.splitlines()]
    assert (thread["event"], thread["thread"]) == ("unforeseen error, the thread ends", "worker")
    assert finalizer["event"] == "unforeseen error, ignored"
    assert thread["exception"][0] == "ValueError"
    assert thread["exception"][-1] == "<string>:7 work"
    assert finalizer["exception"] == ["ValueError", "<string>:10 __del__", "<string>:7 work"]
    assert "secret" not in ended.stderr
