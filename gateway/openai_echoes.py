"""The prompts that answers begin with, where a client wants that: only a worker knows the text of ids, and how probable
a prompt is."""

import dataclasses

from gateway.gateway import new_id
from gateway.jobs import Jobs
from gateway.openai_calls import Call
from gateway.openai_prompts import Prompt
from gateway.openai_render import Echo
from gateway.openai_runs import Read, reading
from gateway.openai_texts import echo_of
from gateway.orders import Orders
from shared.messages import FinishReason, JobFinished, LogEntry


@dataclasses.dataclass(frozen=True)
class Told:
    """What is known of one prompt before it is answered. length: in tokens; 0 where nobody had to look."""

    echo: Echo
    length: int = 0

    def ending(self, choices: int) -> LogEntry:
        """The end of the job that would answer it with nothing, so many times."""
        others = (FinishReason.LENGTH,) * (choices - 1)
        return LogEntry(1, (), JobFinished(FinishReason.LENGTH, self.length, others=others))


async def read_prompts(jobs: Jobs, call: Call, orders: Orders) -> list[Told]:
    """What a call wants to be told of its prompts; empty without echo. Raises CorollaError."""
    asked = {
        number: orders.make(new_id(), echo_of(prompt, call.requests[number]))
        for number, prompt in enumerate(call.echoes)
        if call.logprobs or call.silent or not isinstance(prompt, str)
    }
    found = dict(zip(asked, await reading(jobs, list(asked.values())) if asked else (), strict=True))
    return [_told(prompt, found.get(number), call.logprobs) for number, prompt in enumerate(call.echoes)]


def _told(prompt: Prompt, read: Read | None, logprobs: bool) -> Told:
    if read is None:
        return Told(Echo(str(prompt)))
    tokens, ending = read
    if isinstance(prompt, str) and not logprobs:
        return Told(Echo(prompt), ending.prompt_tokens)
    text = "".join(token.text for token in tokens)
    return Told(Echo(text, tuple(tokens) if logprobs else ()), ending.prompt_tokens)
