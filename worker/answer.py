"""One answer as it grows: its text, stops, limits and ending, and what its session keeps of it. Pure."""

from collections.abc import Iterable

from shared.messages import Ending, FinishReason, JobFinished, JobRequest, Logprobs, Token
from shared.records import SessionCommit
from worker.backend import Choice, Tokenizer
from worker.detokenizer import Detokenizer
from worker.prompts import Plan
from worker.stopping import Match, StopFinder


class Answer:
    """One choice of a job: takes what the model chose, gives tokens, and knows when and how it ends.

    choice: its number. ids: everything so far, session and prompt included; the answer begins at `start`. tokens: those
    of the answer. logprob: natural logarithm of how probable they are together, where the model tells that of each.
    ending, commit: None until it ended; commit stays None where the session keeps nothing of it.
    """

    def __init__(self, request: JobRequest, plan: Plan, tokenizer: Tokenizer, choice: int = 0) -> None:
        self.choice = choice
        self.ids = list(plan.before)
        self.start = len(self.ids)
        self.tokens: list[Token] = []
        self.logprob = 0.0
        self.ending: Ending | None = None
        self.commit: SessionCommit | None = None
        self._request = request
        self._plan = plan
        self._tokenizer = tokenizer
        eos_ids = frozenset[int]() if request.sampling.ignore_eos else tokenizer.eos_ids
        self._last_ids = eos_ids.union(request.sampling.stop_token_ids)
        self._detokenizer = Detokenizer(tokenizer, plan.before, plan.held, request.show_special)
        self._stops = StopFinder((*request.stop, *request.extra_stop), request.show_stop)
        self._length = 0  # of the text, with what is withheld and what follows a stop string
        self._borders = [(0, 0)]  # (tokens, length of their text) wherever no character was incomplete

    @property
    def positions(self) -> int:
        """Places in the attention cache that the longest possible answer needs."""
        return self._plan.positions

    def replay(self, log: Iterable[Token]) -> None:
        """Take the tokens of this choice that were emitted before."""
        for token in log:
            if token.choice == self.choice:
                self._take(token.id, token.logprobs)
                self.logprob += token.logprobs.logprob if token.logprobs else 0.0

    def push(self, chosen: Choice) -> Token:
        """Take the next token. Its text may be empty, and ends with a stop string, or before a hidden one."""
        self.logprob += chosen.logprob or 0.0
        wanted = self._request.sampling.logprobs is not None
        return self._take(chosen.id, chosen.logprobs(self._tokenizer) if wanted else None)

    def cancel(self) -> None:
        """End it at the client's wish. A call that gave nothing leaves no trace in the session."""
        self._finish(FinishReason.CANCELLED, self._length - self._stops.withheld)
        if not self.tokens:
            self.commit = None

    def _take(self, id: int, logprobs: Logprobs | None) -> Token:
        stopped = id in self._last_ids
        text = self._detokenizer.push(id)
        if stopped and not self._request.show_stop:
            text = ""
        shown, match = self._stops.push(text)
        ends = stopped or match is not None or len(self.tokens) + 1 >= self._plan.limit
        if ends:
            shown += self._stops.rest
        token = Token(id, shown, self.choice, logprobs)
        self.ids.append(id)
        self.tokens.append(token)
        self._length += len(text)
        if not self._detokenizer.held:
            self._borders.append((len(self.tokens), self._length))
        if ends:
            self._end(match, stopped)
        return token

    def _end(self, match: Match | None, stopped: bool) -> None:
        if match:
            self._stop(match)
        elif stopped:
            self._finish(FinishReason.STOP, self._length)
        elif self._plan.overflow:
            self.ending = self._plan.overflow
        else:
            self._finish(FinishReason.LENGTH, self._length)

    def _stop(self, match: Match) -> None:
        """End at a stop string. The session goes on as the client saw it: without what followed in the same token, and
        without a hidden stop string; after an extra one that is shown, as if the model had written the stop sequence
        itself."""
        if not self._request.show_stop:
            self._finish(FinishReason.STOP, match.start)
        elif match.index >= len(self._request.stop) > 0:
            self._finish(FinishReason.STOP, match.start, self._request.stop[0])
        else:
            self._finish(FinishReason.STOP, match.end)

    def _finish(self, reason: FinishReason, end: int, following: str = "") -> None:
        """End; the session keeps the answer's text up to `end`, and has another text after it."""
        self.ending = JobFinished(reason, self._plan.prompt_tokens, len(self.tokens))
        new_ids = self.ids[self.start - self._plan.prompt_tokens :]
        if end == self._length:
            self.commit = SessionCommit(new_ids, self._detokenizer.held)
            return
        count, length = max(border for border in self._borders if border[1] <= end)
        rest = "".join(token.text for token in self.tokens)[length:end]
        kept = new_ids[: self._plan.prompt_tokens + count]
        encode = self._tokenizer.encode
        rewritten = (encode(rest, False) if rest else []) + (encode(following, False) if following else [])
        self.commit = SessionCommit(kept + rewritten)
