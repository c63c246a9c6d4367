"""From what a client of the OpenAI API sent to the jobs that answer it. Pure."""

import dataclasses
from collections.abc import Sequence
from typing import Self

import msgspec

from gateway.openai_prompts import Limits, Prompt, find_model, messages_of, prompts_of, refuse_unsupported
from gateway.openai_types import ChatRequest, Common, CompletionRequest, read
from shared.catalog import Model
from shared.errors import Code, CorollaError, InvalidField
from shared.messages import JobRequest, Message
from shared.sampling import BeamParams, SamplingParams

COMPLETION_TOKENS = 16
CHAT_TOKENS = 512
SEEDS = 2**63


@dataclasses.dataclass(frozen=True)
class Call:
    """One request, understood.

    model: its name as the client wrote it. requests: one job for each prompt. choices: answers of each.
    echoes: what stands before the answers, by prompt; empty without echo. chat, logprobs: the shape of the answer.
    seed: the client's. silent: there is nothing to generate: the echo is all.
    """

    model: str
    requests: tuple[JobRequest, ...]
    choices: int
    chat: bool
    logprobs: bool
    stream: bool
    include_usage: bool
    user: str | None
    seed: int | None
    echoes: tuple[Prompt, ...] = ()
    silent: bool = False

    def seeded(self, default: int) -> Self:
        """The call with its jobs' seeds: the client's, or else that one for the first job, the next for the next."""
        seeds = [default + number if self.seed is None else self.seed for number in range(len(self.requests))]
        requests = tuple(_seeded(job, seed) for job, seed in zip(self.requests, seeds, strict=True))
        return dataclasses.replace(self, requests=requests)


def completion_call(fields: dict[str, object], limits: Limits) -> Call:
    """The call of POST /v1/completions. Raises CorollaError."""
    refuse_unsupported(fields)
    asked = read(fields, CompletionRequest)
    model = find_model(limits.catalog, asked.model)
    prompts = prompts_of("prompt", asked.prompt, limits)
    silent = asked.max_tokens == 0
    if silent and not asked.echo:
        raise InvalidField("max_tokens", "`max_tokens` must be at least 1 without `echo`")
    job = _job(asked, model, asked.logprobs)
    job = msgspec.structs.replace(job, max_new_tokens=asked.max_tokens or COMPLETION_TOKENS)
    requests = [_with_prompt(job, prompt, model) for prompt in prompts]
    echoes = tuple(prompt or "" for prompt in prompts) if asked.echo else ()
    if echoes and (silent or asked.logprobs is not None) and any(request.messages for request in requests):
        raise InvalidField("echo", "`echo` cannot be had with `logprobs` here: this model's prompts are wrapped")
    call = _call(asked, model, requests, echoes, logprobs=asked.logprobs is not None)
    return dataclasses.replace(call, silent=silent)


def chat_call(fields: dict[str, object], limits: Limits) -> Call:
    """The call of POST /v1/chat/completions. Raises CorollaError."""
    refuse_unsupported(fields)
    asked = read(fields, ChatRequest)
    model = find_model(limits.catalog, asked.model)
    messages = messages_of(asked.messages, limits.max_prompt_chars)
    if asked.top_logprobs is not None and not asked.logprobs:
        raise InvalidField("top_logprobs", "`top_logprobs` needs `logprobs` to be true")
    job = _job(asked, model, (asked.top_logprobs or 0) if asked.logprobs else None)
    wanted = asked.max_completion_tokens or asked.max_tokens
    job = msgspec.structs.replace(
        job, messages=messages, max_new_tokens=wanted or CHAT_TOKENS, shrink=wanted is None, prompt=None
    )
    return _call(asked, model, [job], (), logprobs=bool(asked.logprobs))


def _call(
    asked: CompletionRequest | ChatRequest,
    model: Model,
    requests: Sequence[JobRequest],
    echoes: tuple[Prompt, ...],
    logprobs: bool,
) -> Call:
    include_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    if include_usage and not asked.stream:
        raise InvalidField("stream_options", "`stream_options.include_usage` needs `stream` to be true")
    return Call(
        model=asked.model or model.key,
        requests=tuple(requests),
        choices=asked.n or 1,
        chat=isinstance(asked, ChatRequest),
        logprobs=logprobs,
        stream=bool(asked.stream),
        include_usage=include_usage,
        user=asked.user,
        seed=asked.seed,
        echoes=echoes,
    )


def _job(asked: Common, model: Model, logprobs: int | None) -> JobRequest:
    """All of a job but what it goes on from, its length and its seed."""
    choices, beams = asked.n or 1, _beams(asked)
    candidates = 0 if beams or asked.use_beam_search else asked.best_of or 0
    if candidates and isinstance(asked, ChatRequest) and candidates != choices:
        raise InvalidField("best_of", "`best_of` is for completions and for beam search only")
    if 0 < candidates < choices:
        raise InvalidField("best_of", f"`best_of` must be at least `n`, which is {choices}, but is {candidates}")
    return JobRequest(
        model=model.key,
        sampling=_sampling(asked, logprobs),
        stop=_stops(asked.stop),
        show_stop=bool(asked.include_stop_str_in_output),
        show_special=False,
        choices=choices,
        candidates=candidates if candidates > choices else 0,
        beams=beams,
    )


def _beams(asked: Common) -> BeamParams | None:
    """Beam search over num_beams, or best_of, or n beams; a single one is greedy decoding."""
    if not asked.use_beam_search and (asked.num_beams or 1) == 1:
        return None
    name = "num_beams" if asked.num_beams else "best_of"
    choices = asked.n or 1
    width = asked.num_beams or asked.best_of or choices
    if width < choices:
        raise InvalidField(name, f"`{name}` must be at least `n`, which is {choices}, but is {width}")
    if width == 1:
        return None
    length_penalty = 1.0 if asked.length_penalty is None else asked.length_penalty
    early_stopping = None if asked.early_stopping == "never" else bool(asked.early_stopping)
    return BeamParams(width, length_penalty, early_stopping)


def _sampling(asked: Common, logprobs: int | None) -> SamplingParams:
    temperature = 1.0 if asked.temperature is None else asked.temperature
    greedy = temperature == 0 or asked.do_sample is False or bool(asked.use_beam_search)
    given = {
        "top_k": max(asked.top_k, 0) if asked.top_k is not None else None,
        "top_p": asked.top_p,
        "min_p": asked.min_p,
        "typical_p": asked.typical_p,
        "repetition_penalty": asked.repetition_penalty,
        "presence_penalty": asked.presence_penalty,
        "frequency_penalty": asked.frequency_penalty,
        "logit_bias": asked.logit_bias,
        "min_tokens": asked.min_tokens,
        "stop_token_ids": tuple(asked.stop_token_ids) if asked.stop_token_ids else None,
        "ignore_eos": asked.ignore_eos,
        "logprobs": logprobs,
    }
    named = {name: value for name, value in given.items() if value is not None}
    return SamplingParams(do_sample=not greedy, temperature=temperature or 1.0, **named)  # type: ignore[arg-type]


def _seeded(job: JobRequest, seed: int) -> JobRequest:
    """The job with its seed, which a client may give as any signed 64-bit number."""
    return msgspec.structs.replace(job, sampling=msgspec.structs.replace(job.sampling, seed=seed % SEEDS))


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    return tuple(each for each in stops if each)


def _with_prompt(job: JobRequest, prompt: Prompt | None, model: Model) -> JobRequest:
    if model.chat.wrap_completions and isinstance(prompt, str):
        return msgspec.structs.replace(job, messages=(Message("user", prompt),))
    return msgspec.structs.replace(job, prompt=prompt)


def require_one(call: Call, feature: str) -> None:
    """Raise CorollaError(INVALID) where a call is answered by several jobs, or with an echo."""
    if len(call.requests) > 1 or call.echoes:
        raise CorollaError(Code.INVALID, f"{feature} cannot be had with several prompts, nor with `echo`")
