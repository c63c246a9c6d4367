"""Models, texts and dialogues, as clients of the OpenAI API name them. Pure."""

import dataclasses

import msgspec

from gateway.openai_types import ChatMessage
from gateway.openai_words import no_model, not_public
from shared.catalog import Catalog, Model
from shared.errors import CorollaError, InvalidField
from shared.messages import Message

Prompt = str | tuple[int, ...]

# Fields that change what an answer means, with the values that do not: nothing else is accepted, lest it be ignored.
_REFUSED: dict[str, tuple[object, ...]] = {
    "suffix": ("",),
    "tools": (),
    "tool_choice": ("none", "auto"),
    "functions": (),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "chat_template": (),
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a gateway allows."""

    catalog: Catalog
    max_prompt_chars: int
    max_prompts: int


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
            others = " or ".join(msgspec.json.encode(each).decode() for each in harmless if each)
            raise InvalidField(name, f"`{name}` is not supported" + (f", other than {others}" if others else ""))


def prompts_of(field: str, prompt: str | list[str | int | list[int]] | None, limits: Limits) -> list[Prompt | None]:
    """The prompts in that field; None begins a text from nothing."""
    if prompt is None or isinstance(prompt, str):
        prompts: list[Prompt | None] = [prompt]
    elif prompt and all(isinstance(each, int) for each in prompt):
        prompts = [tuple(each for each in prompt if isinstance(each, int))]
    else:
        prompts = [_item(field, each) for each in prompt]
    if not 0 < len(prompts) <= limits.max_prompts:
        raise InvalidField(field, f"`{field}` must hold 1 to {limits.max_prompts} texts, but holds {len(prompts)}")
    for each in prompts:
        check_length(field, len(each or ""), limits.max_prompt_chars)
    return prompts


def _item(field: str, item: str | int | list[int]) -> Prompt:
    if isinstance(item, int):
        raise InvalidField(field, f"`{field}` must be text, a list of texts, token ids, or a list of lists of them")
    if item == []:
        raise InvalidField(field, f"`{field}` holds an empty list of token ids")
    return item if isinstance(item, str) else tuple(item)


def messages_of(messages: str | list[ChatMessage], max_chars: int) -> tuple[Message, ...]:
    asked = [ChatMessage("user", messages)] if isinstance(messages, str) else messages
    found = tuple(_message(each, number) for number, each in enumerate(asked))
    if not found:
        raise InvalidField("messages", "`messages` must hold at least one message")
    check_length("messages", sum(len(each.content) for each in found), max_chars)
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


def check_length(field: str, length: int, max_chars: int) -> None:
    if length > max_chars:
        raise InvalidField(
            field, f"`{field}` is too long: {length} characters or tokens, at most {max_chars} are allowed"
        )
