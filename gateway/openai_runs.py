"""All jobs of one request, run side by side, as one iterator of events."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager

from gateway.jobs import Jobs, Run
from gateway.openai_render import Stream
from gateway.orders import Order, Queued
from shared.errors import CorollaError, TooLong
from shared.messages import FinishReason, JobFailed, JobFinished, LogEntry, Token

Event = tuple[int, LogEntry]
Read = tuple[list[Token], JobFinished]
Source = AbstractAsyncContextManager[AsyncGenerator[Event, None]]


@contextlib.asynccontextmanager
async def running(jobs: Jobs, orders: Sequence[Order]) -> AsyncIterator[AsyncGenerator[Event, None]]:
    """The events of these jobs, each with its job's number, in the order of each job; they end when all have ended.

    Raises CorollaError where one is refused, and so does the iterator where one fails: the others are cancelled.
    """
    async with contextlib.AsyncExitStack() as stack:
        runs = [await stack.enter_async_context(jobs.run(order)) for order in orders]
        events = _alone(runs[0]) if len(runs) == 1 else _together(runs)
        yield await stack.enter_async_context(contextlib.aclosing(events))


@contextlib.asynccontextmanager
async def known(entries: Sequence[LogEntry]) -> AsyncIterator[AsyncGenerator[Event, None]]:
    """Events of jobs that need not run: an entry of each, as `running` would give it."""

    async def events() -> AsyncGenerator[Event, None]:
        for number, entry in enumerate(entries):
            yield number, entry

    async with contextlib.aclosing(events()) as found:
        yield found


async def streaming(source: Source, stream: Stream) -> AsyncGenerator[bytes, None]:
    """Events as server-sent ones, up to the end of the stream. Raises CorollaError."""
    async with source as events:
        async for prompt, entry in events:
            yield stream.feed(prompt, entry)
    yield stream.finish()


async def reading(jobs: Jobs, orders: Sequence[Order]) -> list[Read]:
    """All tokens of each of these jobs, and its ending. Raises CorollaError."""
    tokens: list[list[Token]] = [[] for _ in orders]
    endings: dict[int, JobFinished] = {}
    async with running(jobs, orders) as events:
        async for number, entry in events:
            tokens[number] += entry.tokens
            if isinstance(entry.ending, JobFinished):
                endings[number] = entry.ending
    return [(found, endings[number]) for number, found in enumerate(tokens)]


async def _alone(run: Run) -> AsyncGenerator[Event, None]:
    async with contextlib.aclosing(run.events()) as events:
        async for event in events:
            for entry in _sound(event):
                yield 0, entry


async def _together(runs: Sequence[Run]) -> AsyncGenerator[Event, None]:
    feeds = [run.events() for run in runs]
    coming = {asyncio.ensure_future(anext(feed)): number for number, feed in enumerate(feeds)}
    try:
        while coming:
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                number = coming.pop(task)
                event = task.result()
                for entry in _sound(event):
                    yield number, entry
                if isinstance(event, Queued) or event.ending is None:
                    coming[asyncio.ensure_future(anext(feeds[number]))] = number
                elif is_cancelled(event):
                    # Who cancels an answer by its id means all of it.
                    for run in runs:
                        await run.cancel()
    finally:
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        for feed in feeds:
            await feed.aclose()


def _sound(event: LogEntry | Queued) -> Iterator[LogEntry]:
    """The entry, where the event is one. Raises CorollaError where it says that the job failed, after its tokens."""
    if isinstance(event, Queued):
        return
    if not isinstance(event.ending, JobFailed):
        yield event
        return
    if event.tokens:
        yield LogEntry(event.first, event.tokens, None)
    failed = event.ending
    raise TooLong(failed.message, failed.lengths) if failed.lengths else CorollaError(failed.code, failed.message)


def is_cancelled(entry: LogEntry) -> bool:
    """Whether it tells that the job was cancelled."""
    return isinstance(entry.ending, JobFinished) and entry.ending.reason is FinishReason.CANCELLED
