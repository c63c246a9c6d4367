"""The catalogue's models, loaded."""

from pathlib import Path

import pytest

from shared.catalog import Catalog, Chat, Family, Model
from shared.settings import read
from worker import models
from worker.models import LoadError
from worker.oracle_backend import OracleBackend
from worker.settings import Settings


def catalog(folder: Path, *served: Model) -> Catalog:
    return Catalog((Family("Test", served),), folder)


def test_all_models_by_key(tmp_path: Path) -> None:
    one = Model("corolla/one", "One", backend="oracle", chat=Chat(max_session_length=128))
    two = Model("corolla/base", "Two", adapter="corolla/two", backend="oracle")
    served = models.load(catalog(tmp_path, one, two), read(Settings, {}))
    assert list(served) == ["corolla/one", "corolla/two"]
    assert [type(each.backend) for each in served.values()] == [OracleBackend, OracleBackend]
    assert [each.max_length for each in served.values()] == [128, 8192]


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    missing = Model("corolla/none", "None", path="nowhere", dht_prefix="none")
    with pytest.raises(LoadError) as raised:
        models.load(catalog(tmp_path, missing), read(Settings, {"COROLLA_DEVICE": "cpu"}))
    assert str(raised.value).startswith("the model corolla/none cannot be loaded: ")
    assert "\n" not in str(raised.value)
