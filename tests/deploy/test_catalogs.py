from pathlib import Path

import pytest

from deploy.swarm import block_count
from shared import catalog
from shared.catalog import CatalogError, Chat, GenerationParams
from tests.services import ROOT

CATALOGS = ROOT / "deploy" / "catalogs"


def test_the_local_catalogue_is_the_demo_model() -> None:
    local = catalog.load(CATALOGS / "local.toml")
    assert list(local.models) == ["corolla/demo"]
    assert local.find("demo") is local.default
    assert (local.default.backend, local.default.license) == ("petals", "MIT")
    assert local.default.chat == Chat(1024, generation_params=GenerationParams(do_sample=0))


def test_the_demo_models_weights_can_be_shared_by_two_servers() -> None:
    local = catalog.load(CATALOGS / "local.toml")
    assert block_count(local, local.default) >= 4


def test_the_oracles_need_no_weights() -> None:
    oracles = catalog.load(CATALOGS / "oracle.toml")
    found = {model.key: (model.backend, model.step_ms) for model in oracles.models.values()}
    assert found == {"corolla/oracle": ("oracle", 5.0), "corolla/oracle-fast": ("oracle", 0.0)}
    with pytest.raises(CatalogError, match="no path of local weights for the model corolla/oracle"):
        block_count(oracles, oracles.default)


def test_the_public_catalogue_serves_one_model() -> None:
    public = catalog.load(CATALOGS / "public.toml")
    assert list(public.models) == ["petals-team/StableBeluga2"]
    assert public.find("stabilityai/StableBeluga2").chat == Chat()


def test_the_public_catalogue_names_more_models(tmp_path: Path) -> None:
    # given every model of the file made active
    text = (CATALOGS / "public.toml").read_text()
    head, families = text.split("\n[[families]]", 1)
    file = tmp_path / "all.toml"
    file.write_text(
        "[[families]]" + "\n".join(line.removeprefix("#").removeprefix(" ") for line in families.splitlines())
    )
    # when
    everything = catalog.load(file)
    # then
    assert head.startswith("# Models of the public Petals swarm.")
    assert list(everything.models) == [
        "petals-team/StableBeluga2",
        "meta-llama/Llama-2-70b-chat-hf",
        "tiiuae/falcon-180B-chat",
        "timdettmers/guanaco-65b",
        "huggyllama/llama-65b",
        "bigscience/bloomz",
    ]
    assert all(model.model_card and model.license for model in everything.models.values())
    assert [model.key for model in everything.models.values() if not model.public_api] == ["tiiuae/falcon-180B-chat"]
    assert everything.find("bigscience/bloomz").chat == Chat(2048, "\n\n", "</s>", ("\n\nHuman",))
    sampling = GenerationParams(do_sample=1, temperature=0.75, top_p=0.9, repetition_penalty=1.2)
    assert everything.find("tiiuae/falcon-180B-chat").chat == Chat(
        8192, "\n", "\n", ("<|endoftext|>", "\nFalcon:", " Falcon:", "\nUser:", " User:", "###"), sampling
    )
