"""The models that a worker serves, loaded."""

import dataclasses
from collections.abc import Mapping

import jinja2

from shared.catalog import Catalog, Chat, Model
from worker.backend import Backend
from worker.oracle_backend import OracleBackend
from worker.settings import Settings
from worker.templates import Template, make_template

PLAIN = make_template(Chat(), None, {})


@dataclasses.dataclass(frozen=True)
class Served:
    """A model, loaded. max_length: tokens that a call without a session may hold. template: how dialogues are told."""

    backend: Backend
    max_length: int
    template: Template = PLAIN


class LoadError(Exception):
    """A model cannot be loaded; the text is one line for the operator."""


def load(catalog: Catalog, settings: Settings) -> Mapping[str, Served]:
    """Load every model of the catalogue, by key. Blocks, for seconds or minutes. Raises LoadError."""
    return {key: _serve(model, _load_one(model, catalog, settings)) for key, model in catalog.models.items()}


def _serve(model: Model, backend: Backend) -> Served:
    own, marks = backend.tokenizer.chat_template, backend.tokenizer.marks
    try:
        template = make_template(model.chat, own, marks)
    except jinja2.TemplateError as error:
        reason = str(error).partition("\n")[0]
        raise LoadError(f"the chat template of {model.key} is wrong: {reason}") from error
    return Served(backend, model.chat.max_session_length, template)


def _load_one(model: Model, catalog: Catalog, settings: Settings) -> Backend:
    match model.backend:
        case "oracle":
            return OracleBackend(model.step_ms)
        case "petals":
            return _load_petals(model, catalog, settings)


def _load_petals(model: Model, catalog: Catalog, settings: Settings) -> Backend:
    # Here, because torch and petals take seconds and hundreds of megabytes that an oracle does not need.
    import torch

    from worker.petals_backend import ModelError
    from worker.petals_backend import load as load_petals

    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return load_petals(model, catalog.folder, settings.peers, settings.dtype, device, settings.slots)
    except ModelError as error:
        raise LoadError(str(error)) from error
