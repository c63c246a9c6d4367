"""Logs: JSON lines on stderr, one event a line; those of libraries too.

An exception is logged as its type and the places it passed, without its text: that may hold what clients sent. What
looks like an API key is cut to its id, as some put theirs where they do not belong, such as a path or a name.
"""

import logging
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType

import structlog

from shared.api_keys import without_secrets

MAX_PLACES = 30

log = structlog.get_logger()


def configure(level: str) -> None:
    """Write events of at least `level` (debug, info, warning, error); of libraries, warnings and errors only."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendered: list[structlog.typing.Processor] = [
        _hide_keys,
        structlog.processors.ExceptionRenderer(_places),
        structlog.processors.JSONRenderer(),
    ]
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared, _first_line],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(logging.WARNING, getattr(logging, level.upper())), force=True)
    sys.excepthook = _last_words
    threading.excepthook = _last_words_of_a_thread
    sys.unraisablehook = _aside


def _places(exc_info: structlog.typing.ExcInfo) -> list[str]:
    """Of the exception and what led to it: its type, then `file:line function` from the outside in."""
    places: list[str] = []
    error: BaseException | None = exc_info[1]
    while error is not None and len(places) < MAX_PLACES:
        frames = traceback.extract_tb(error.__traceback__)[-MAX_PLACES:]
        places += [type(error).__name__, *(f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in frames)]
        error = error.__cause__ or error.__context__
    return places


def _hide_keys(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = without_secrets(value)
    return event


def _first_line(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Some libraries write tracebacks into their messages."""
    event["event"] = str(event["event"]).partition("\n")[0]
    return event


def _last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python would print where nobody caught an exception."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        log.critical("unforeseen error, the process ends", exc_info=error)


def _last_words_of_a_thread(broken: threading.ExceptHookArgs) -> None:
    """What Python would print where nobody caught an exception in a thread; SystemExit is none there."""
    if broken.exc_value is not None and not isinstance(broken.exc_value, SystemExit):
        name = broken.thread.name if broken.thread else None
        log.critical("unforeseen error, the thread ends", thread=name, exc_info=broken.exc_value)


def _aside(broken: "sys.UnraisableHookArgs") -> None:
    """What Python would print where nobody could catch an exception, as in a finalizer."""
    if broken.exc_value is not None:
        log.error("unforeseen error, ignored", exc_info=broken.exc_value)
