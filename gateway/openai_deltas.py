"""A job's events as what they add to each of its choices. Pure."""

import dataclasses

from shared.messages import FinishReason, JobFinished, LogEntry, Token

# How a cancelled answer ended: there is no word of its own for that.
_WORDS = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.CANCELLED: "stop"}


@dataclasses.dataclass(frozen=True)
class Delta:
    """What is new in one choice.

    choice: its number in the job. start: length of its text before. tokens: those whose text this completes.
    finish: why it ended; nothing follows then.
    """

    choice: int
    start: int
    text: str
    tokens: tuple[Token, ...]
    finish: str | None = None


@dataclasses.dataclass
class _State:
    length: int = 0
    texts: list[str] = dataclasses.field(default_factory=list)
    tokens: list[Token] = dataclasses.field(default_factory=list)


class Deltas:
    """The choices of one job.

    trim: spaces before an answer are dropped: they stand between a role's name and its words, where the prompt ends.

    A token without text of its own waits for the one that completes its character. Those without text at the end were
    the stop, which is no part of the answer.
    """

    def __init__(self, trim: bool) -> None:
        self._trim = trim
        self._states: dict[int, _State] = {}

    def feed(self, entry: LogEntry) -> list[Delta]:
        """What an entry adds, by choice; and the ends, where it has the ending and the job did not fail."""
        touched: dict[int, _State] = {}
        for token in entry.tokens:
            state = self._states.setdefault(token.choice, _State())
            state.tokens.append(token)
            text = token.text.lstrip(" ") if self._trim and not (state.length or any(state.texts)) else token.text
            state.texts.append(text)
            if text:
                touched[token.choice] = state
        deltas = [_cut(choice, state) for choice, state in touched.items()]
        if isinstance(entry.ending, JobFinished):
            reasons = (entry.ending.reason, *entry.ending.others)
            count = max(len(reasons), *(choice + 1 for choice in self._states), 0)
            padded = reasons + (entry.ending.reason,) * (count - len(reasons))
            deltas += [self._end(choice, reason) for choice, reason in enumerate(padded)]
        return deltas

    def _end(self, choice: int, reason: FinishReason) -> Delta:
        state = self._states.setdefault(choice, _State())
        rest = tuple(state.tokens) if reason is FinishReason.LENGTH else ()
        return Delta(choice, state.length, "", rest, _WORDS[reason])


def _cut(choice: int, state: _State) -> Delta:
    """All that has gathered; tokens behind the last one with text stay."""
    whole = max(number for number, text in enumerate(state.texts, start=1) if text)
    text, tokens = "".join(state.texts[:whole]), tuple(state.tokens[:whole])
    delta = Delta(choice, state.length, text, tokens)
    del state.texts[:whole], state.tokens[:whole]
    state.length += len(text)
    return delta
