"""The services of the local stack."""

from pathlib import Path

from deploy.services import Wish, stages
from shared import catalog
from tests.services import ROOT


def test_an_address_for_metrics_is_the_workers_alone(tmp_path: Path) -> None:
    file = ROOT / "deploy" / "catalogs" / "oracle.toml"
    wish = Wish(file, catalog.load(file), tmp_path, workers=1, gateways=2, port=8000)
    services = {each.name: each.environ for stage in stages(wish) for each in stage}
    given = {name: environ.get("COROLLA_METRICS_BIND") for name, environ in services.items()}
    assert (given["gateway-1"], given["gateway-2"], given["worker-1"]) == ("", "", None)
