"""One answer as it grows: its text, stops, limits and ending, and what its session keeps of it. Pure."""

from collections.abc import Iterable

from shared.messages import Ending, FinishReason, JobFinished, JobRequest, Token
from shared.records import SessionCommit
from worker.backend import Tokenizer
from worker.detokenizer import Detokenizer
from worker.prompts import Plan
from worker.stopping import Match, StopFinder


class Answer:
    """Takes the ids that the model chose, gives tokens, and knows when and how it ends.

    ids: everything so far, session and prompt included. tokens: those of the answer. ending, commit: None until it
    ended; commit stays None where the session keeps nothing of it.
    """

    def __init__(self, request: JobRequest, plan: Plan, tokenizer: Tokenizer) -> None:
        self.ids = list(plan.before)
        self.tokens: list[Token] = []
        self.ending: Ending | None = None
        self.commit: SessionCommit | None = None
        self._request = request
        self._plan = plan
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer.decode, plan.before, plan.held)
        self._stops = StopFinder((*request.stop, *request.extra_stop))
        self._length = 0  # of the text
        self._borders = [(0, 0)]  # (tokens, length of their text) wherever no character was incomplete

    @property
    def positions(self) -> int:
        """Places in the attention cache that the longest possible answer needs."""
        return self._plan.positions

    def replay(self, log: Iterable[Token]) -> None:
        """Take the tokens that were emitted before."""
        for token in log:
            self.push(token.id)

    def push(self, chosen: int) -> Token:
        """Take the next id. Its text may be empty, and is cut where a stop string ends."""
        text = self._detokenizer.push(chosen)
        match = self._stops.push(text)
        whole = self._length + len(text)
        token = Token(chosen, text[: match.end - self._length] if match else text)
        self.ids.append(chosen)
        self.tokens.append(token)
        self._length += len(token.text)
        if match:
            self._stop(match, whole)
        elif chosen in self._tokenizer.eos_ids:
            self._finish(FinishReason.STOP, self._new_ids())
        elif len(self.tokens) >= self._plan.limit:
            self._reach_limit()
        if not self._detokenizer.held:
            self._borders.append((len(self.tokens), self._length))
        return token

    def cancel(self) -> None:
        """End it at the client's wish. A call that gave nothing leaves no trace in the session."""
        self._finish(FinishReason.CANCELLED, self._new_ids() if self.tokens else None)

    def _new_ids(self) -> list[int]:
        """Ids that the session has not yet."""
        return self.ids[len(self._plan.before) - self._plan.prompt_tokens :]

    def _finish(self, reason: FinishReason, ids: list[int] | None) -> None:
        self.ending = JobFinished(reason, self._plan.prompt_tokens, len(self.tokens))
        if ids is not None:
            self.commit = SessionCommit(ids, self._detokenizer.held)

    def _reach_limit(self) -> None:
        if self._plan.overflow:
            self.ending = self._plan.overflow
        else:
            self._finish(FinishReason.LENGTH, self._new_ids())

    def _stop(self, match: Match, whole: int) -> None:
        """End at a stop string, in a text that would have had the length `whole`.

        The session goes on as the client saw it: without what followed in the same token, and after an extra stop as
        if the model had written the stop sequence itself.
        """
        if match.index >= len(self._request.stop) > 0:
            ids = self._rewritten(match.start, self._request.stop[0])
        elif match.end < whole:
            ids = self._rewritten(match.end, "")
        else:
            ids = self._new_ids()
        self._finish(FinishReason.STOP, ids)

    def _rewritten(self, end: int, following: str) -> list[int]:
        """The session's new ids for the answer's text up to `end` and another text after it."""
        count, length = max(border for border in self._borders if border[1] <= end)
        rest = "".join(token.text for token in self.tokens)[length:end]
        kept = self._new_ids()[: self._plan.prompt_tokens + count]
        encode = self._tokenizer.encode
        return kept + (encode(rest, False) if rest else []) + (encode(following, False) if following else [])
