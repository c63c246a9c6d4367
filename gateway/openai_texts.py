"""From what a client of the OpenAI API sent to the jobs that only read a text. Pure."""

import dataclasses

import msgspec

from gateway.openai_prompts import Limits, Prompt, check_length, find_model, messages_of, prompts_of, refuse_unsupported
from gateway.openai_types import DetokenizeRequest, EmbeddingRequest, TokenizeRequest, read
from shared.errors import InvalidField
from shared.messages import JobRequest
from shared.sampling import SamplingParams


@dataclasses.dataclass(frozen=True)
class Reading:
    """A request that only reads texts. requests: one job for each of them. base64: how embeddings are told."""

    model: str
    requests: tuple[JobRequest, ...]
    user: str | None = None
    base64: bool = False


def tokenize_call(fields: dict[str, object], limits: Limits) -> Reading:
    """The call of POST /v1/tokenize. Raises CorollaError."""
    refuse_unsupported(fields)
    asked = read(fields, TokenizeRequest)
    model = find_model(limits.catalog, asked.model)
    if asked.add_special_tokens is False:
        raise InvalidField("add_special_tokens", "`add_special_tokens` cannot be false")
    if (asked.prompt is None) == (asked.messages is None):
        raise InvalidField("prompt", "One of `prompt` and `messages` is required")
    job = JobRequest(model.key, SamplingParams(), echo=True)
    if asked.messages is not None:
        job = msgspec.structs.replace(job, messages=messages_of(asked.messages, limits.max_prompt_chars))
    else:
        check_length("prompt", len(asked.prompt or ""), limits.max_prompt_chars)
        job = msgspec.structs.replace(job, prompt=asked.prompt)
    return Reading(asked.model or model.key, (job,))


def detokenize_call(fields: dict[str, object], limits: Limits) -> Reading:
    """The call of POST /v1/detokenize. Raises CorollaError."""
    asked = read(fields, DetokenizeRequest)
    model = find_model(limits.catalog, asked.model)
    check_length("tokens", len(asked.tokens), limits.max_prompt_chars)
    job = JobRequest(model.key, SamplingParams(), prompt=tuple(asked.tokens), echo=True)
    return Reading(asked.model or model.key, (job,))


def embedding_call(fields: dict[str, object], limits: Limits) -> Reading:
    """The call of POST /v1/embeddings. Raises CorollaError."""
    asked = read(fields, EmbeddingRequest)
    model = find_model(limits.catalog, asked.model)
    if asked.dimensions is not None:
        raise InvalidField("dimensions", "`dimensions` is not supported")
    inputs = prompts_of("input", asked.input, limits)
    jobs = tuple(JobRequest(model.key, SamplingParams(), prompt=each, embed=True) for each in inputs)
    return Reading(asked.model or model.key, jobs, asked.user, asked.encoding_format == "base64")


def echo_of(prompt: Prompt, job: JobRequest) -> JobRequest:
    """The job that tells a prompt's tokens; and how probable they are, if the job that answers it does that too."""
    sampling = SamplingParams(logprobs=job.sampling.logprobs)
    return JobRequest(job.model, sampling, prompt=prompt, echo=True, show_special=False)
