"""The answers to one job, side by side in the rows of one session: what comes of the model's choices. Pure."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from shared.errors import Code, CorollaError
from shared.messages import Ending, FinishReason, JobFailed, JobFinished, JobRequest, Token
from shared.records import Claim, SessionCommit
from shared.sampling import BeamParams, SamplingParams
from worker.answer import Answer
from worker.backend import Choice, Draw, Tokenizer
from worker.beams import BeamSearch
from worker.models import Served
from worker.prompts import Plan, make_plan, write_prompt

_HARMLESS = SamplingParams()
_ONE_ONLY = "A session goes on with one answer: there cannot be several of them, nor beam search"


class Answers(Protocol):
    """What a job wants of the model, step by step.

    ending, commit: as of an Answer, for all of them together.
    """

    ending: Ending | None
    commit: SessionCommit | None

    @property
    def ids(self) -> Sequence[Sequence[int]]:
        """All ids of each row; each has as many as the others."""

    @property
    def draws(self) -> Sequence[Draw]:
        """How to choose what follows in each row."""

    @property
    def parents(self) -> Sequence[int] | None:
        """The row that each row goes on from; None where that is its own."""

    @property
    def positions(self) -> int:
        """Places in the attention cache that the longest possible answer needs."""

    def push(self, chosen: Sequence[Choice]) -> list[Token]:
        """Take the next token of every row; what goes to the client now."""

    def cancel(self) -> None:
        """End it at the client's wish."""


def begin(claim: Claim, served: Served) -> Answers:
    """The answers of a job, as far as they got before. Raises CorollaError where it asks for what cannot be."""
    request, session = claim.request, claim.session
    rows = max(request.choices, request.candidates)
    if session and (rows > 1 or request.beams):
        raise CorollaError(Code.INVALID, _ONE_ONLY)
    tokenizer = served.backend.tokenizer
    request = write_prompt(request, served.template, tokenizer)
    plan = make_plan(request, session, session.max_length if session else served.max_length, tokenizer)
    if request.beams:
        return Beams(request, plan, tokenizer, request.beams, len(claim.log))
    if rows > request.choices:
        return Candidates(request, plan, tokenizer, rows, len(claim.log))
    choices = Choices(request, plan, tokenizer, rows, request.sampling)
    choices.replay(claim.log)
    return choices


class Choices:
    """Answers that are drawn side by side, and given out as they come.

    sampling: the rules that their tokens are chosen by.
    """

    def __init__(
        self, request: JobRequest, plan: Plan, tokenizer: Tokenizer, rows: int, sampling: SamplingParams
    ) -> None:
        self.answers = [Answer(request, plan, tokenizer, row) for row in range(rows)]
        self.ids = [answer.ids for answer in self.answers]
        self.draws = [
            Draw(sampling, answer.ids, answer.start, row, tokenizer.eos_ids) for row, answer in enumerate(self.answers)
        ]
        self.parents: Sequence[int] | None = None
        self.positions = plan.positions
        self.ending: Ending | None = None
        self.commit: SessionCommit | None = None
        self._prompt_tokens = plan.prompt_tokens
        self._draws = tuple(self.draws)  # of the answers themselves
        self._following: set[int] = set()  # rows that draw nothing now: they are fed what is known

    @property
    def made(self) -> int:
        """Tokens of all answers."""
        return sum(len(answer.tokens) for answer in self.answers)

    def replay(self, log: Sequence[Token]) -> None:
        """Take the tokens that were emitted before. A row that has more of them than others draws again when these
        have as many."""
        for answer in self.answers:
            answer.replay(log)
        self._settle(min((len(answer.ids) for answer in self.answers if not answer.ending), default=0))

    def push(self, chosen: Sequence[Choice]) -> list[Token]:
        """Take the next token of every row; what goes to the client now."""
        tokens = []
        ended = False
        for row, answer in enumerate(self.answers):
            if row in self._following:
                self._feed_known(row)
            else:
                tokens.append(answer.push(chosen[row]))
                ended = ended or answer.ending is not None
        if ended:
            self._settle(len(self.ids[0]))
        return tokens

    def cancel(self) -> None:
        """End it at the client's wish."""
        for answer in self.answers:
            if not answer.ending:
                answer.cancel()
        self._end(JobFinished(FinishReason.CANCELLED, self._prompt_tokens, self.made))

    def _settle(self, length: int) -> None:
        """End where all answers have; otherwise bring all rows to this length."""
        if all(answer.ending for answer in self.answers):
            self._end(_summary(self.answers, self.made))
            return
        for row, answer in enumerate(self.answers):
            if (answer.ending or len(answer.ids) > length) and row not in self._following:
                self._follow(row, length)

    def _end(self, ending: Ending) -> None:
        self.ending = ending
        self.commit = self.answers[0].commit if len(self.answers) == 1 else None

    def _follow(self, row: int, length: int) -> None:
        """Feed this row what is known of its answer, then the last token of it again and again."""
        answer = self.answers[row]
        ids = answer.ids[:length] + answer.ids[-1:] * (length - len(answer.ids))
        self.ids[row] = ids
        self.draws[row] = Draw(_HARMLESS, ids, answer.start, row)
        self._following.add(row)

    def _feed_known(self, row: int) -> None:
        ids, answer = self.ids[row], self.answers[row]
        ids.append(answer.ids[len(ids)] if len(ids) < len(answer.ids) else ids[-1])
        if not answer.ending and len(ids) == len(answer.ids):
            self.ids[row], self.draws[row] = answer.ids, self._draws[row]
            self._following.remove(row)


class Candidates:
    """More answers than are asked for, of which the most probable by token are given out, all at once.

    rows: how many. before: tokens of them that were given out before.
    """

    def __init__(self, request: JobRequest, plan: Plan, tokenizer: Tokenizer, rows: int, before: int) -> None:
        sampling = request.sampling
        if sampling.logprobs is None:
            sampling = msgspec.structs.replace(sampling, logprobs=0)
        self._all = Choices(request, plan, tokenizer, rows, sampling)
        self.ids, self.draws, self.parents = self._all.ids, self._all.draws, self._all.parents
        self.positions = plan.positions
        self.ending: Ending | None = None
        self.commit: SessionCommit | None = None
        self._count = request.choices
        self._before = before

    def push(self, chosen: Sequence[Choice]) -> list[Token]:
        """Take the next token of every row; what goes to the client now."""
        self._all.push(chosen)
        if not self._all.ending:
            return []
        ranked = sorted(self._all.answers, key=lambda answer: answer.logprob / len(answer.tokens), reverse=True)
        best = ranked[: self._count]
        self.ending = _summary(best, self._all.made)
        return _tokens(best)[self._before :]

    def cancel(self) -> None:
        """End it at the client's wish."""
        self._all.cancel()
        self.ending = self._all.ending


class Beams:
    """The best answers that beam search finds, given out all at once.

    before: tokens of them that were given out before.
    """

    def __init__(self, request: JobRequest, plan: Plan, tokenizer: Tokenizer, params: BeamParams, before: int) -> None:
        ends = frozenset(request.sampling.stop_token_ids)
        if not request.sampling.ignore_eos:
            ends |= tokenizer.eos_ids
        self._search = BeamSearch(params, plan.before, len(plan.before) + plan.limit, ends)
        self.positions = plan.positions
        self.ending: Ending | None = None
        self.commit: SessionCommit | None = None
        self._request = request
        self._plan = plan
        self._tokenizer = tokenizer
        self._before = before
        self._look()

    def _look(self) -> None:
        """At where the search is."""
        start = len(self._plan.before)
        eos_ids, ranked = self._tokenizer.eos_ids, self._search.ranked
        self.ids = [beam.ids for beam in self._search.beams]
        self.draws = [
            Draw(self._request.sampling, ids, start, row, eos_ids, ranked) for row, ids in enumerate(self.ids)
        ]
        self.parents = self._search.parents

    def push(self, chosen: Sequence[Choice]) -> list[Token]:
        """Take the best tokens of every row; what goes to the client now."""
        self._search.push(chosen)
        if not self._search.over:
            self._look()
            return []
        best = [self._write(choice, made) for choice, made in enumerate(self._search.best(self._request.choices))]
        self.ending = _summary(best, sum(len(answer.tokens) for answer in best))
        return _tokens(best)[self._before :]

    def _write(self, choice: int, made: Sequence[Choice]) -> Answer:
        """The answer of these tokens, which may end before the last of them."""
        answer = Answer(self._request, self._plan, self._tokenizer, choice)
        for token in made:
            if not answer.ending:
                answer.push(token)
        return answer

    def cancel(self) -> None:
        """End it at the client's wish."""
        self.ending = JobFinished(FinishReason.CANCELLED, self._plan.prompt_tokens)


def _summary(answers: Sequence[Answer], made: int) -> Ending:
    """One ending for all that are given out, of so many tokens; what failed one of them fails the job."""
    endings = [answer.ending for answer in answers]
    for ending in endings:
        if isinstance(ending, JobFailed):
            return ending
    finished = [ending for ending in endings if isinstance(ending, JobFinished)]
    reason, *others = [ending.reason for ending in finished]
    return JobFinished(reason, finished[0].prompt_tokens, made, tuple(others))


def _tokens(answers: Sequence[Answer]) -> list[Token]:
    """Their tokens, one answer after the other, under the numbers in this order."""
    return [
        Token(token.id, token.text, choice, token.logprobs)
        for choice, answer in enumerate(answers)
        for token in answer.tokens
    ]
