"""A worker that says what a test tells it to say, over the real broker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from shared.broker import Broker
from shared.messages import Ending, FinishReason, JobFinished, Logprobs, Token
from shared.records import Append, Appended, Claim, Registration, SessionCommit

PATIENCE_S = 30.0  # with what must come


def token(text: str) -> Token:
    """A token with that text; its id follows from the text."""
    return Token(sum(text.encode()), text)


def weighed(text: str, logprob: float, *others: tuple[str, float], choice: int = 0) -> Token:
    """A token with that text and logprob; the others are what could have been chosen."""
    top = tuple((other.encode(), each) for other, each in ((text, logprob), *others))
    return Token(sum(text.encode()), text, choice, Logprobs(text.encode(), logprob, top))


class Performance:
    """One claimed job, and how much of it was said."""

    def __init__(self, broker: Broker, claim: Claim) -> None:
        self.claim = claim
        self._broker = broker
        self._last = len(claim.log)

    async def say(self, *texts: str, ending: Ending | None = None, commit: SessionCommit | None = None) -> Appended:
        """Append a token for each text, in one entry, and perhaps the ending."""
        return await self.tell(*(token(text) for text in texts), ending=ending, commit=commit)

    async def tell(self, *tokens: Token, ending: Ending | None = None, commit: SessionCommit | None = None) -> Appended:
        """Append these tokens, in one entry, and perhaps the ending."""
        first = self._last + 1
        self._last += len(tokens)
        append = Append(self.claim.job, self.claim.epoch, first, tokens, ending, commit)
        (appended,) = await self._broker.append([append])
        return appended

    async def finish(self, *texts: str, reason: FinishReason = FinishReason.LENGTH) -> Appended:
        """Say the last tokens; the answer is complete."""
        session = self.claim.session
        commit = SessionCommit([1] * len(texts)) if session else None
        ending = JobFinished(reason, 1, self._last + len(texts), kept=commit is not None)
        return await self.say(*texts, ending=ending, commit=commit)

    async def is_cancelled(self) -> bool:
        """Whether the job is to end now, or was ended for a worker that took too long to."""
        return not await self.is_running()

    async def is_running(self) -> bool:
        """Whether the job is this worker's, and is to go on."""
        nothing = Append(self.claim.job, self.claim.epoch, 1, ())
        (appended,) = await self._broker.append([nothing])
        return appended.status == "ok" and not appended.cancelled

    async def until_cancelled(self) -> None:
        """Return when the job is to end."""
        async with asyncio.timeout(PATIENCE_S):
            while not await self.is_cancelled():
                await asyncio.sleep(0.005)


class Player:
    """A worker named `name` for `models`."""

    def __init__(self, broker: Broker, models: tuple[str, ...], name: str = "player") -> None:
        self.who = Registration(name, models, 32)
        self._broker = broker

    async def enter(self) -> None:
        """Register, so that the models have a live worker."""
        assert await self._broker.claim(self.who, 0, 0) == []

    async def take(self) -> Performance:
        """The next job; waits for it."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._next()

    async def _next(self) -> Performance:
        while True:
            for claim in await self._broker.claim(self.who, 1, 1000):
                return Performance(self._broker, claim)

    async def is_offered_more(self) -> bool:
        """Whether there is a job to take now, or in a moment."""
        return bool(await self._broker.claim(self.who, 1, 100))

    @contextlib.asynccontextmanager
    async def playing(self, *texts: str) -> AsyncIterator[None]:
        """Answer every job with these texts, one token an entry, as long as the context lasts."""

        async def play() -> None:
            while True:
                performance = await self._next()
                for text in texts[:-1]:
                    await performance.say(text)
                await performance.finish(texts[-1])

        task = asyncio.create_task(play())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()
