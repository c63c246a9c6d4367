"""From what a client of the OpenAI API sent to the jobs that answer it. Pure."""

import dataclasses
from collections.abc import Sequence

import msgspec

from gateway.openai_types import MAX_PROMPTS, ChatMessage, ChatRequest, Common, CompletionRequest, read
from gateway.openai_words import no_model, not_public
from shared.catalog import Catalog, Model
from shared.errors import Code, CorollaError, InvalidField
from shared.messages import JobRequest, Message
from shared.sampling import BeamParams, SamplingParams

COMPLETION_TOKENS = 16
CHAT_TOKENS = 512
SEEDS = 2**63

Prompt = str | tuple[int, ...]

# Fields that change what an answer means, with the values that do not: nothing else is accepted, lest it be ignored.
_REFUSED: dict[str, tuple[object, ...]] = {
    "suffix": (),
    "tools": (),
    "tool_choice": ("none", "auto"),
    "functions": (),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "chat_template": (),
}


@dataclasses.dataclass(frozen=True)
class Call:
    """One request, understood.

    model: its name as the client wrote it. requests: one job for each prompt. choices: answers of each.
    echoes: what stands before the answers, by prompt; empty without echo. chat, logprobs: the shape of the answer.
    """

    model: str
    requests: tuple[JobRequest, ...]
    choices: int
    chat: bool
    logprobs: bool
    stream: bool
    include_usage: bool
    user: str | None
    echoes: tuple[Prompt, ...] = ()


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a gateway allows, and what it takes where a client says nothing. seed: of the first prompt."""

    catalog: Catalog
    max_prompt_chars: int
    seed: int


def completion_call(fields: dict[str, object], limits: Limits) -> Call:
    """The call of POST /v1/completions. Raises CorollaError."""
    refuse_unsupported(fields)
    asked = read(fields, CompletionRequest)
    model = find_model(limits.catalog, asked.model)
    prompts = _prompts(asked.prompt, limits.max_prompt_chars)
    if asked.echo and asked.logprobs is not None:
        raise InvalidField("echo", "`echo` cannot be had together with `logprobs`")
    job = _job(asked, model, asked.logprobs)
    job = msgspec.structs.replace(job, max_new_tokens=asked.max_tokens or COMPLETION_TOKENS)
    requests = [
        _seeded(_with_prompt(job, prompt, model), asked.seed, limits.seed + number)
        for number, prompt in enumerate(prompts)
    ]
    echoes = tuple(prompt or "" for prompt in prompts) if asked.echo else ()
    return _call(asked, model, requests, echoes, logprobs=asked.logprobs is not None)


def chat_call(fields: dict[str, object], limits: Limits) -> Call:
    """The call of POST /v1/chat/completions. Raises CorollaError."""
    refuse_unsupported(fields)
    asked = read(fields, ChatRequest)
    model = find_model(limits.catalog, asked.model)
    messages = _messages(asked.messages, limits.max_prompt_chars)
    if asked.top_logprobs is not None and not asked.logprobs:
        raise InvalidField("top_logprobs", "`top_logprobs` needs `logprobs` to be true")
    job = _job(asked, model, (asked.top_logprobs or 0) if asked.logprobs else None)
    wanted = asked.max_completion_tokens or asked.max_tokens
    job = msgspec.structs.replace(
        job, messages=messages, max_new_tokens=wanted or CHAT_TOKENS, shrink=wanted is None, prompt=None
    )
    return _call(asked, model, [_seeded(job, asked.seed, limits.seed)], (), logprobs=bool(asked.logprobs))


def find_model(catalog: Catalog, name: str | None) -> Model:
    """The model of that key or alias, which must be for everybody. Raises CorollaError."""
    try:
        model = catalog.find(name)
    except CorollaError:
        raise no_model(name or "") from None
    if not model.public_api:
        raise not_public(model.key)
    return model


def refuse_unsupported(fields: dict[str, object]) -> None:
    """Raise InvalidField for a field that asks for what there is not."""
    for name, harmless in _REFUSED.items():
        value = fields.get(name)
        if value is not None and value not in harmless:
            raise InvalidField(name, f"`{name}` is not supported")


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


def _seeded(job: JobRequest, seed: int | None, default: int) -> JobRequest:
    """The job with its seed, which a client may give as any signed 64-bit number."""
    number = (default if seed is None else seed) % SEEDS
    return msgspec.structs.replace(job, sampling=msgspec.structs.replace(job.sampling, seed=number))


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    return tuple(each for each in stops if each)


def _prompts(prompt: str | list[str | int | list[int]] | None, max_chars: int) -> list[Prompt | None]:
    """The prompts; None begins a text from nothing."""
    if prompt is None or isinstance(prompt, str):
        prompts: list[Prompt | None] = [prompt]
    elif prompt and all(isinstance(each, int) for each in prompt):
        prompts = [tuple(each for each in prompt if isinstance(each, int))]
    else:
        prompts = [_item(each) for each in prompt]
    if not 0 < len(prompts) <= MAX_PROMPTS:
        raise InvalidField("prompt", f"`prompt` must hold 1 to {MAX_PROMPTS} prompts, but holds {len(prompts)}")
    for each in prompts:
        _check_length("prompt", len(each or ""), max_chars)
    return prompts


def _item(item: str | int | list[int]) -> Prompt:
    if isinstance(item, int):
        raise InvalidField("prompt", "`prompt` must be text, a list of texts, token ids, or a list of lists of them")
    if item == []:
        raise InvalidField("prompt", "`prompt` holds an empty list of token ids")
    return item if isinstance(item, str) else tuple(item)


def _with_prompt(job: JobRequest, prompt: Prompt | None, model: Model) -> JobRequest:
    if model.chat.wrap_completions and isinstance(prompt, str):
        return msgspec.structs.replace(job, messages=(Message("user", prompt),))
    return msgspec.structs.replace(job, prompt=prompt)


def _messages(messages: str | list[ChatMessage], max_chars: int) -> tuple[Message, ...]:
    asked = [ChatMessage("user", messages)] if isinstance(messages, str) else messages
    found = tuple(_message(each, number) for number, each in enumerate(asked))
    if not found:
        raise InvalidField("messages", "`messages` must hold at least one message")
    _check_length("messages", sum(len(each.content) for each in found), max_chars)
    return found


def _message(message: ChatMessage, number: int) -> Message:
    content = message.message if message.content is None else message.content
    if content is None and message.role != "assistant":
        raise InvalidField("messages", f"`messages[{number}].content` is required")
    if message.role in ("tool", "function"):
        raise InvalidField("messages", f"`messages[{number}].role`: tools are not supported")
    text = "\n".join(part.text for part in content) if isinstance(content, list) else content or ""
    # What newer clients call developer is what all templates know as system.
    return Message("system" if message.role == "developer" else message.role, text)


def _check_length(field: str, length: int, max_chars: int) -> None:
    if length > max_chars:
        raise InvalidField(
            field, f"`{field}` is too long: {length} characters or tokens, at most {max_chars} are allowed"
        )


def require_one(call: Call, feature: str) -> None:
    """Raise CorollaError(INVALID) where a call is answered by several jobs, or with an echo."""
    if len(call.requests) > 1 or call.echoes:
        raise CorollaError(Code.INVALID, f"{feature} cannot be had with several prompts, nor with `echo`")
