"""The catalogue: families of models, their aliases, chat settings and cards, from one TOML file.

The first model of the first family is the default. Every field is listed in the structs below; an unknown field, a
wrong type or a name given twice stops the start with a CatalogError that names it.
"""

import re
from pathlib import Path
from typing import Literal

import msgspec

from shared.errors import Code, CorollaError

TemplateName = Literal["llama2", "alpaca2", "alpaca", "chatml", "plain"]


class CatalogError(Exception):
    """The catalogue file is missing or wrong; the text is one line for the operator."""


class GenerationParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Sampling that the chat page sends with each question; it binds no API client. None is left out."""

    do_sample: int = 1
    temperature: float | None = 0.6
    top_k: int | None = None
    top_p: float | None = 0.9
    repetition_penalty: float | None = None


class Chat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a dialogue with the model is written down, and how long it may get.

    max_session_length: tokens that a session (or a single call) may hold.
    sep_token: stands between turns. stop_token: ends the model's turn. extra_stop_sequences: end it as well.
    template: how the OpenAI API writes a dialogue down; absent: as the model's own chat template says, else plain.
    wrap_completions: whether its /v1/completions gives the model each prompt as a user's message in that template.
    """

    max_session_length: int = 8192
    sep_token: str = "###"
    stop_token: str = "###"
    extra_stop_sequences: tuple[str, ...] = ("</s>",)
    generation_params: GenerationParams = GenerationParams()
    template: TemplateName | None = None
    wrap_completions: bool = False


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model that clients may ask for.

    repository: its id; adapter: a LoRA's id, which is then the model's key.
    aliases: other names that clients may use. public_api: False serves it to pages of the same origin only.
    backend: "petals", or "oracle" (tokens that follow from seed and position; for tests and load measurements).
    path: folder of local weights and tokenizer, relative to the catalogue's file; absent: `repository` itself.
    revision: of the repository. dht_prefix: the swarm's name for its blocks, where it differs from Petals' own.
    step_ms: oracle only, the time of one step.
    """

    repository: str
    name: str
    adapter: str | None = None
    aliases: tuple[str, ...] = ()
    public_api: bool = True
    model_card: str = ""
    license: str = ""
    chat: Chat = Chat()
    backend: Literal["petals", "oracle"] = "petals"
    path: str | None = None
    revision: str | None = None
    dht_prefix: str | None = None
    step_ms: float = 0.0

    @property
    def key(self) -> str:
        """The name that jobs, streams and the API use."""
        return self.adapter or self.repository


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Models that belong together on the page."""

    name: str
    models: tuple[Model, ...]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    families: tuple[Family, ...]


class Catalog:
    """The families, and a look-up by exact key or alias. `folder` is where relative model paths start."""

    def __init__(self, families: tuple[Family, ...], folder: Path) -> None:
        self.families = families
        self.folder = folder
        self.models: dict[str, Model] = {}
        self._names: dict[str, Model] = {}
        for model in (model for family in families for model in family.models):
            self.models[model.key] = model
            for name in (model.key, *model.aliases):
                if not re.fullmatch(r"[\w.:/@-]{1,200}", name):
                    raise CatalogError(f"the name {name!r} may hold only letters, digits and . _ : / @ -")
                if self._names.setdefault(name, model) is not model:
                    raise CatalogError(f"the name {name!r} is given to two models")
        if not self.models:
            raise CatalogError("it names no model")

    @property
    def default(self) -> Model:
        """The model of clients that name none."""
        return next(iter(self.models.values()))

    def find(self, name: str | None) -> Model:
        """The model of that exact key or alias; None is the default. Raises CorollaError(MODEL_NOT_FOUND)."""
        if name is None:
            return self.default
        model = self._names.get(name)
        if model is None:
            raise CorollaError(Code.MODEL_NOT_FOUND, repr(name))
        return model


def load(path: str | Path) -> Catalog:
    """Read a catalogue file. Raises CatalogError, whose text names the file and what is wrong in it."""
    file = Path(path)
    try:
        content = msgspec.toml.decode(file.read_bytes(), type=_File)
        return Catalog(content.families, file.resolve().parent)
    except OSError as error:
        raise CatalogError(f"the catalogue {path} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, CatalogError) as error:
        raise CatalogError(f"the catalogue {path} is wrong: {error}") from None
