"""The catalogue of models."""

from pathlib import Path

import pytest

from shared.catalog import CatalogError, Chat, GenerationParams, load
from shared.errors import Code, CorollaError

TWO = """
[[families]]
name = "First"
[[families.models]]
repository = "org/one"
name = "One"
aliases = ["one"]
[[families]]
name = "Second"
[[families.models]]
repository = "org/two"
adapter = "org/lora"
name = "Two"
chat = { max_session_length = 64, generation_params = { do_sample = 0 } }
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "catalog.toml"
    path.write_text(text)
    return path


def test_models_are_found_by_key_and_alias(tmp_path: Path) -> None:
    catalog = load(write(tmp_path, TWO))
    assert catalog.default.key == "org/one"
    assert [catalog.find(name).name for name in (None, "one", "org/one", "org/lora")] == ["One", "One", "One", "Two"]
    assert catalog.folder == tmp_path
    assert catalog.default.chat == Chat()
    assert catalog.find("org/lora").chat == Chat(64, generation_params=GenerationParams(do_sample=0))


@pytest.mark.parametrize("name", ["", "ONE", "org/two", "org/one "])
def test_an_unknown_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorollaError) as refused:
        load(write(tmp_path, TWO)).find(name)
    assert (refused.value.code, refused.value.message) == (Code.MODEL_NOT_FOUND, repr(name))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("families = []", "it names no model"),
        ("families = 3", "Expected `array`, got `int` - at `$.families`"),
        (TWO.replace('"one"', '"org/lora"'), "the name 'org/lora' is given to two models"),
        (TWO.replace('"one"', '"a b"'), "the name 'a b' may hold only letters, digits and . _ : / @ -"),
        (TWO.replace("aliases", "alias"), "Object contains unknown field `alias` - at `$.families[0].models[0]`"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, why: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(CatalogError) as refused:
        load(path)
    assert str(refused.value) == f"the catalogue {path} is wrong: {why}"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"the catalogue .* cannot be read: No such file or directory"):
        load(tmp_path / "none.toml")
