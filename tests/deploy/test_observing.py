"""Metrics as they are documented, and the dashboard, alerts and scrapes that are made of them."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

import gateway.metrics
import worker.metrics
from gateway.census import ASK_S, Census
from shared.broker import Broker
from shared.errors import Code
from tests.deploy import promtool
from tests.deploy.test_compose import load
from tests.services import ROOT

GUIDE = (ROOT / "deploy" / "OPERATING.md").read_text()
RULES = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
ALERTS = {rule["alert"]: rule["expr"] for rule in RULES}
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/corolla.json").read_text())
SCRAPES = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
TARGETS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
NAME = re.compile(r"\b((?:vllm:|corolla_)\w+|ALERTS)")

Row = tuple[str, str, tuple[str, ...], str, str]


def instruments() -> Iterator[tuple[str, MetricWrapperBase]]:
    """All that gateways and workers count, by who counts it."""
    counted = gateway.metrics.Metrics(())
    census = Census(Broker("redis://127.0.0.1:1/0"), {}, CollectorRegistry())
    for who, owner in (("gateway", counted), ("gateway", census), ("worker", worker.metrics.Metrics(()))):
        yield from ((who, each) for each in vars(owner).values() if isinstance(each, MetricWrapperBase))


def table() -> list[Row]:
    """The rows of the guide's table."""
    text = GUIDE.partition("<!-- metrics -->")[2].partition("<!-- /metrics -->")[0]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.strip().splitlines()[2:]]
    return [(name, kind, tuple(re.findall(r"\w+", labels)), who, said) for name, kind, labels, who, said in rows]


def exposed(metric: MetricWrapperBase) -> str:
    """Its name on the wire."""
    (family,) = metric.describe()
    return family.name + ("_total" if family.type == "counter" else "")


def samples() -> Mapping[str, tuple[str, ...]]:
    """Every name that a query may use, with its labels."""
    found: dict[str, tuple[str, ...]] = {"ALERTS": ("alertname", "alertstate", "severity", "model_name")}
    for name, kind, labels, _, _ in table():
        names = [f"{name}_{part}" for part in ("bucket", "sum", "count")] if kind == "histogram" else [name]
        found |= {each: labels + (("le",) if each.endswith("_bucket") else ()) for each in names}
    return found


def test_the_table_has_every_metric_and_nothing_else() -> None:
    counted = set()
    for who, metric in instruments():
        (family,) = metric.describe()
        counted.add((who, exposed(metric), family.type, family.documentation))
    assert {(who, name, kind, said) for name, kind, _, who, said in table()} == counted
    assert len(table()) == len(counted)


def test_the_table_has_their_labels() -> None:
    labels = {name: labels for name, _, labels, _, _ in table()}
    for _, metric in instruments():
        wanted = labels[exposed(metric)]
        if wanted:
            metric.labels(**dict.fromkeys(wanted, "x"))  # raises ValueError for any other set of labels
        (family,) = metric.collect()
        assert all(set(wanted) <= sample.labels.keys() for sample in family.samples if sample.labels or wanted)


@pytest.mark.parametrize("expression", [*TARGETS, *ALERTS.values()])
def test_queries_use_what_there_is(expression: str) -> None:
    known = samples()
    used = NAME.findall(expression)
    assert used or "up{" in expression
    assert set(used) <= known.keys()
    labels = {label for name in used for label in known[name]} | {"instance", "job"}
    asked = re.findall(r"(\w+)=~?\"|(\w+)!~?\"", expression)
    grouped = ",".join(re.findall(r"by \(([^)]*)\)", expression))
    assert {first or second for first, second in asked} | set(re.findall(r"\w+", grouped)) <= labels
    assert expression.count("(") == expression.count(")")


def test_prometheus_can_read_all_queries(tmp_path: Path) -> None:
    # As Grafana sends them.
    sent = [each.replace("$model", ".*").replace("$__rate_interval", "1m") for each in TARGETS]
    promtool.check(tmp_path, [*sent, *ALERTS.values()])


@pytest.mark.parametrize("key", ["scrape_configs", "alerting"])
def test_prometheus_can_read_its_configuration(tmp_path: Path, key: str) -> None:
    # As it is, and with what the guide says of Kubernetes, and of an Alertmanager.
    promtool.check_config(ROOT / "deploy/prometheus/prometheus.yml")
    (told,) = re.findall(rf"^    {key}:\n(?:     .*\n)+", GUIDE, re.MULTILINE)
    file = tmp_path / "prometheus.yml"
    # Debian's knows nothing of Kubernetes.
    file.write_text(told.replace("kubernetes_sd_configs: [{role: pod}]", "static_configs: []"))
    promtool.check_config(file)


def test_alerts_that_fire_are_seen_on_the_dashboard() -> None:
    first = DASHBOARD["panels"][0]
    assert [target["expr"] for target in first["targets"]] == [
        'sum by (alertname, model_name) (ALERTS{alertstate="firing"})'
    ]


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    sources = [panel["datasource"] for panel in panels] + [DASHBOARD["templating"]["list"][0]["datasource"]]
    (provided,) = yaml.safe_load((ROOT / "deploy/grafana/datasources/prometheus.yml").read_text())["datasources"]
    assert {source["uid"] for source in sources} == {provided["uid"]}
    legends = {
        label
        for panel in panels
        for each in panel["targets"]
        for label in re.findall(r"{{(\w+)}}", each["legendFormat"])
    }
    assert legends <= {label for labels in samples().values() for label in labels} | {"instance"}


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for each in TARGETS for name in NAME.findall(each)}
    bare = {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    assert {name for name, *_ in table()} <= bare | {"vllm:request_success_total"}


def test_there_are_alerts_for_what_goes_wrong() -> None:
    assert list(ALERTS) == [
        "NoGateway",
        "BrokerAway",
        "NoWorker",
        "QueueGrowing",
        "DeadLetters",
        "FencedAppends",
        "SwarmFailing",
        "ErrorRate",
    ]
    codes = {
        code for each in ALERTS.values() for found in re.findall(r'code=~?"([^"]*)"', each) for code in found.split("|")
    }
    assert codes <= set(Code)


def test_prometheus_asks_every_gateway_and_worker() -> None:
    services = load()["services"]
    asked = {each["job_name"]: each["dns_sd_configs"][0] for each in SCRAPES["scrape_configs"]}
    for name in ("gateway", "worker"):
        assert asked[name]["names"] == [name]
        assert services[name]["environment"]["COROLLA_METRICS_BIND"] == f"0.0.0.0:{asked[name]['port']}"
        assert set(services[name]["networks"]) & set(services["prometheus"]["networks"])


def test_a_gateway_with_a_silent_broker_answers_prometheus_in_time() -> None:
    # With no time-out of its own, a scrape may take as long as the interval.
    assert SCRAPES["global"] == {"scrape_interval": "5s", "evaluation_interval": "5s"}
    assert ASK_S <= 5 / 2


def test_what_is_mounted_is_what_is_read() -> None:
    services = load()["services"]
    assert "./deploy/prometheus:/etc/corolla:ro,z" in services["prometheus"]["volumes"]
    assert "--config.file=/etc/corolla/prometheus.yml" in services["prometheus"]["command"]
    inside = Path("/etc/grafana/provisioning")
    assert f"./deploy/grafana:{inside}:ro,z" in services["grafana"]["volumes"]
    provider: dict[str, Any] = yaml.safe_load((ROOT / "deploy/grafana/dashboards/dashboards.yml").read_text())[
        "providers"
    ][0]
    assert provider["options"]["path"] == str(inside / "dashboards")
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == str(inside / "dashboards" / "corolla.json")
