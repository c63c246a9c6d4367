"""Errors in the words of the Petals Chat API: `{"ok": false, "traceback": "ErrorName: text"}`.

Pages show these texts to people, and some clients look for words in them: "Maximum length exceeded", "attention cache
is full", "Session ... expired".
"""

from shared.errors import Code, CorollaError

_NAMES = {
    Code.INVALID: "ValueError",
    Code.MODEL_NOT_FOUND: "KeyError",
    Code.MODEL_NOT_PUBLIC: "ValueError",
    Code.SESSION_NOT_FOUND: "KeyError",
    Code.TOO_MANY_SESSIONS: "ValueError",
    Code.TOO_LONG: "ValueError",
    Code.DEADLINE: "TimeoutError",
    Code.BROKER: "ConnectionError",
    Code.SWARM: "ConnectionError",
    Code.REVOKED: "PermissionError",
}
_MATCHED_WORDS = {Code.TOO_LONG: "Maximum length exceeded", Code.CACHE_FULL: "The attention cache is full"}


def session_not_found(session: str) -> CorollaError:
    """The error for a session id that is not, or no longer, known."""
    return CorollaError(Code.SESSION_NOT_FOUND, f"Session '{session[:64]}' expired or does not exist")


def not_public(model: str) -> CorollaError:
    """The error for a model whose licence allows no public API."""
    return CorollaError(Code.MODEL_NOT_PUBLIC, f"We do not provide public API for {model} due to license restrictions")


def traceback_line(error: CorollaError) -> str:
    """One line for the field `traceback`, named as the Python error that the original raised."""
    text = " ".join(error.message.split())
    words = _MATCHED_WORDS.get(error.code, "")
    if words.removeprefix("The ").lower() not in text.lower():
        text = f"{words}: {text}"
    if error.code is Code.SESSION_NOT_FOUND:
        text = repr(text)
    return f"{_NAMES.get(error.code, 'RuntimeError')}: {text}"


def failure(error: CorollaError) -> dict[str, object]:
    """The message that tells a client of the Petals Chat API what went wrong."""
    return {"ok": False, "traceback": traceback_line(error)}
