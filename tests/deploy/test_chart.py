"""The Helm chart, rendered by Helm's own code and held against the schemas of Kubernetes and of KEDA."""

import re
from typing import Any

import kubernetes_validate
import pytest
import redis
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from helm_python import Chart, lint
from redis.exceptions import NoPermissionError

from gateway import settings as gateway_settings
from gateway.server import GRACE_S
from shared import catalog
from shared.keys import Keys
from shared.settings import read, rules
from tests.services import ROOT
from tests.valkey import Valkey
from worker import settings as worker_settings

FOLDER = ROOT / "deploy" / "chart"
VALUES = yaml.safe_load((FOLDER / "values.yaml").read_text())
VERSIONS = ("1.27", "1.37")  # the oldest that the chart allows, and the newest that there is a schema of
PARTS = {"gateway": "gateway", "batches": "gateway", "worker": "worker"}  # whose image and user they have
EVERYTHING = {
    "image": {"pullSecrets": [{"name": "registry"}], "tag": "2.0.0"},
    "gateway": {"nodeSelector": {"kind": "small"}, "tolerations": [{"key": "small", "operator": "Exists"}]},
    "worker": {
        "settings": {"COROLLA_PEERS": "/ip4/10.1.2.3/tcp/31337/p2p/Qm", "COROLLA_SLOTS": 16},
        "models": {"persistentVolumeClaim": {"claimName": "models"}},
        "nodeSelector": {"kind": "large"},
    },
    "ingress": {"tlsSecret": "tls"},
    "networkPolicy": {"egress": [{"ports": [{"port": 4318}]}]},
}
LITTLE = {
    "worker": {"scaler": {"enabled": False}},
    "files": {"claim": "shared"},
    "ingress": {"enabled": False},
    "networkPolicy": {"enabled": False},
}
STORE = {"files": {"url": "s3://bucket/files"}}
NO_BATCHES = {"batches": {"enabled": False}}
ALL = {"default": None, "everything": EVERYTHING, "little": LITTLE, "store": STORE, "no batches": NO_BATCHES}

Manifest = dict[str, Any]


def render(values: Manifest | None = None) -> dict[tuple[str, str], Manifest]:
    """The manifests, by kind and name."""
    with Chart.load(FOLDER) as chart:
        files = chart.render(values, name="my", namespace="corolla")
    told = [file for name, file in files.items() if name.endswith(".yaml")]
    manifests = [each for file in told for each in yaml.safe_load_all(file) if each]
    found = {(each["kind"], each["metadata"]["name"]): each for each in manifests}
    assert len(found) == len(manifests)
    return found


def notes(values: Manifest | None = None) -> str:
    """What an operator is told after the installation."""
    with Chart.load(FOLDER) as chart:
        return str(chart.render(values, name="my", namespace="corolla")["corolla/templates/NOTES.txt"])


def pod(manifests: dict[tuple[str, str], Manifest], part: str) -> Manifest:
    spec = manifests["Deployment", f"my-{part}"]["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def test_helm_finds_nothing_to_complain_about() -> None:
    report = lint(FOLDER, strict=True)
    assert [message for message in report["messages"] if message["severity"] > 1] == []
    assert report["errors"] == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", ALL.values(), ids=ALL)
def test_every_manifest_is_valid(values: Manifest | None, version: str) -> None:
    for (kind, _), manifest in render(values).items():
        if manifest["apiVersion"] == "keda.sh/v1alpha1":
            getattr(keda, kind).model_validate(manifest, extra="forbid")
        else:
            kubernetes_validate.validate(manifest, version, strict=True)
        assert re.fullmatch(r"[a-z0-9-]{1,63}", manifest["metadata"]["name"]), kind


def test_what_there_is() -> None:
    parts = {("Deployment", f"my-{part}") for part in PARTS}
    parts |= {("PodDisruptionBudget", name) for _, name in parts}
    files = {("PersistentVolumeClaim", "my-files")}
    base = {("ConfigMap", "my-catalog"), ("Service", "my-gateway"), ("HorizontalPodAutoscaler", "my-gateway")} | parts
    more = {("NetworkPolicy", f"my-{part}") for part in PARTS} | files
    more |= {("Ingress", "my-gateway"), ("ScaledObject", "my-worker"), ("TriggerAuthentication", "my-worker")}
    assert render(LITTLE).keys() == base
    assert render().keys() == base | more
    assert render(STORE).keys() == (base | more) - files
    batches = {(kind, "my-batches") for kind in ("Deployment", "PodDisruptionBudget", "NetworkPolicy")}
    assert render(NO_BATCHES).keys() == (base | more) - files - batches


def test_the_catalogue_is_the_one_of_the_values(tmp_path: Any) -> None:
    file = tmp_path / "catalog.toml"
    file.write_text(render()["ConfigMap", "my-catalog"]["data"]["catalog.toml"])
    assert list(catalog.load(file).models) == ["petals-team/StableBeluga2"]


@pytest.mark.parametrize("part", PARTS)
def test_pods_are_locked(part: str) -> None:
    spec = pod(render(), part)
    (container,) = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["image"] == f"corolla-{PARTS[part]}:0.1.0"


def test_secrets_are_references() -> None:
    for part, kind in PARTS.items():
        (container,) = pod(render(), part)["containers"]
        url = container["env"][0]
        assert url["name"] == "COROLLA_REDIS_URL"
        assert url["valueFrom"] == {"secretKeyRef": {"name": "corolla-broker", "key": f"{kind}-url"}}
    assert "redis://" not in yaml.dump([*render(EVERYTHING).values()])


def test_a_setting_may_be_a_secret() -> None:
    manifests = render({"gateway": {"secrets": {"COROLLA_KEY_PEPPER": "my-pepper"}}})
    for part in ("gateway", "batches"):
        (container,) = pod(manifests, part)["containers"]
        reference = {"secretKeyRef": {"name": "corolla-broker", "key": "my-pepper"}}
        assert container["env"][-1] == {"name": "COROLLA_KEY_PEPPER", "valueFrom": reference}
    assert "pepper" not in str(pod(manifests, "worker"))


def test_callers_need_keys_unless_that_is_switched_off() -> None:
    # given what a gateway is started with
    (container,) = pod(render(), "gateway")["containers"]
    environ = {each["name"]: each.get("value", "p" * 32) for each in container["env"]}
    # then
    assert read(gateway_settings.Settings, environ | {"COROLLA_REDIS_URL": "redis://x"}).needs_keys
    create = "kubectl exec -n corolla deploy/my-gateway -- python -m deploy.keys create NAME"
    assert create in notes()
    off = {"gateway": {"settings": {"COROLLA_AUTH": "off"}}}
    assert create not in notes(off)
    assert "everybody who reaches the gateways may call" in notes(off)


def test_an_operator_is_told_that_there_are_no_batches() -> None:
    assert "There are no batches" in notes(NO_BATCHES)
    assert "There are no batches" not in notes()


def test_settings_become_variables() -> None:
    (container,) = pod(render(EVERYTHING), "worker")["containers"]
    assert container["env"][3:] == [
        {"name": "COROLLA_PEERS", "value": "/ip4/10.1.2.3/tcp/31337/p2p/Qm"},
        {"name": "COROLLA_SLOTS", "value": "16"},
    ]
    assert VALUES["gateway"]["settings"].keys() <= rules(gateway_settings.Settings).keys()
    assert VALUES["worker"]["settings"].keys() <= rules(worker_settings.Settings).keys()


def test_batches_are_answered_as_gateways_would() -> None:
    values = {"gateway": {"settings": {"A": 1, "B": 2}}, "batches": {"settings": {"B": 3}}}
    manifests = render(values)
    gateway, batches = (pod(manifests, part)["containers"][0] for part in ("gateway", "batches"))
    assert batches["command"] == ["python", "-m", "gateway.batch_worker"]
    added = {each["name"]: each["value"] for each in batches["env"][2:] if "value" in each}
    assert added == {"A": "1", "B": "3", "COROLLA_AUTH": "on", "COROLLA_TRUSTED_PROXIES": "10.0.0.0/8"}
    assert batches["image"] == gateway["image"]


@pytest.mark.parametrize(("values", "claim"), [(None, "my-files"), (LITTLE, "shared")])
def test_gateways_and_batches_share_files(values: Manifest | None, claim: str) -> None:
    manifests = render(values)
    for part in ("gateway", "batches"):
        spec = pod(manifests, part)
        (volume,) = [each for each in spec["volumes"] if each["name"] == "files"]
        assert volume["persistentVolumeClaim"] == {"claimName": claim}
        assert {"name": "files", "mountPath": "/files"} in spec["containers"][0]["volumeMounts"]
    if values is None:
        assert manifests["PersistentVolumeClaim", claim]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_files_may_lie_in_a_store() -> None:
    manifests = render(STORE)
    for part in ("gateway", "batches"):
        (container,) = pod(manifests, part)["containers"]
        assert {"name": "COROLLA_FILES", "value": "s3://bucket/files"} in container["env"]
        assert [each["name"] for each in container["volumeMounts"]] == ["catalog", "tmp"]
    assert "COROLLA_FILES" not in str(pod(manifests, "worker"))


def test_gateways_know_that_there_are_no_batches() -> None:
    (container,) = pod(render(NO_BATCHES), "gateway")["containers"]
    assert {"name": "COROLLA_BATCH_API", "value": "off"} in container["env"]
    assert [each["name"] for each in container["volumeMounts"]] == ["catalog", "tmp"]
    assert "COROLLA_BATCH_API" not in str(pod(render(), "gateway"))


@pytest.mark.parametrize("values", [None, STORE], ids=["default", "store"])
def test_what_a_pod_mounts_it_has(values: Manifest | None) -> None:
    for part in PARTS:
        spec = pod(render(values), part)
        (container,) = spec["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    assert pod(render(EVERYTHING), "worker")["volumes"][-1]["persistentVolumeClaim"] == {"claimName": "models"}


def test_a_gateway_has_time_to_end_what_it_has_begun() -> None:
    spec = pod(render(), "gateway")
    assert spec["terminationGracePeriodSeconds"] >= GRACE_S + 5 + 5  # what preStop takes, and some more


def test_a_gateway_has_disk_for_the_files_that_are_sent_to_it() -> None:
    (tmp,) = [each for each in pod(render(), "gateway")["volumes"] if each["name"] == "tmp"]
    assert tmp["emptyDir"] == {"sizeLimit": "2Gi"}  # on disk, where no medium is named
    largest = int(rules(gateway_settings.Settings)["COROLLA_MAX_FILE_BYTES"].default)
    assert 20 * largest <= 2 << 30


def test_services_budgets_and_policies_select_the_pods() -> None:
    manifests = render()
    for part in PARTS:
        deployment = manifests["Deployment", f"my-{part}"]["spec"]
        labels = deployment["template"]["metadata"]["labels"]
        selectors = [
            deployment["selector"]["matchLabels"],
            manifests["PodDisruptionBudget", f"my-{part}"]["spec"]["selector"]["matchLabels"],
            manifests["NetworkPolicy", f"my-{part}"]["spec"]["podSelector"]["matchLabels"],
        ]
        if part == "gateway":
            selectors.append(manifests["Service", "my-gateway"]["spec"]["selector"])
        assert all(selector.items() <= labels.items() for selector in selectors)
        assert {selector["app.kubernetes.io/component"] for selector in selectors} == {part}


def test_monitoring_reaches_metrics_and_clients_do_not() -> None:
    # given the port that gateways and workers have for it
    manifests = render()
    for part in ("gateway", "worker"):
        (container,) = pod(manifests, part)["containers"]
        assert {"name": "metrics", "containerPort": 9100} in container["ports"]
        assert {"name": "COROLLA_METRICS_BIND", "value": "0.0.0.0:9100"} in container["env"]
    # then it is in no service, and policies let nobody but monitoring come there
    assert manifests["Service", "my-gateway"]["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": "http"}]
    namespace = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    monitoring = {"from": [namespace], "ports": [{"port": "metrics"}]}
    clients = {"from": [{"namespaceSelector": {}}], "ports": [{"port": "http"}]}
    allowed = {part: manifests["NetworkPolicy", f"my-{part}"]["spec"]["ingress"] for part in PARTS}
    assert allowed == {"gateway": [clients, monitoring], "batches": [], "worker": [monitoring]}


def test_workers_are_scaled_by_all_jobs_that_are_not_finished() -> None:
    (trigger,) = render()["ScaledObject", "my-worker"]["spec"]["triggers"]
    assert trigger["metadata"] == {"listName": Keys().due, "listLength": "24", "enableTLS": "true"}
    assert "replicas" not in render()["Deployment", "my-worker"]["spec"]
    assert render(LITTLE)["Deployment", "my-worker"]["spec"]["replicas"] == 1


def test_gateways_are_scaled_by_the_core_that_each_can_use() -> None:
    (metric,) = render()["HorizontalPodAutoscaler", "my-gateway"]["spec"]["metrics"]
    assert metric["resource"] == {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "700m"}}


def test_neither_gateways_nor_workers_go_too_soon() -> None:
    manifests = render()
    gateway = manifests["HorizontalPodAutoscaler", "my-gateway"]["spec"]
    worker = manifests["ScaledObject", "my-worker"]["spec"]["advanced"]["horizontalPodAutoscalerConfig"]
    for scaled in (gateway, worker):
        assert scaled["behavior"]["scaleDown"] == {"stabilizationWindowSeconds": 600}


def test_the_scalers_user_may_count_jobs_and_nothing_else(valkey: Valkey) -> None:
    # given the user that the values tell of
    (words,) = re.findall(r"# +user scaler (.*)", (FOLDER / "values.yaml").read_text())
    valkey.client.execute_command("ACL", "SETUSER", "scaler", *words.split())  # type: ignore[no-untyped-call]
    valkey.client.zadd(Keys().due, {"a": 1, "b": 2})
    # when asked as KEDA does: by a script that looks at the key's type
    count = "if redis.call('type', KEYS[1]).ok == 'zset' then return redis.call('zcard', KEYS[1]) end"
    with redis.Redis(port=valkey.port, username="scaler", password="PASSWORD", protocol=2) as client:
        # then
        assert client.eval(count, 1, Keys().due) == 2
        with pytest.raises(NoPermissionError):
            client.eval(count, 1, Keys().workers)
        with pytest.raises(NoPermissionError):
            client.zrem(Keys().due, "a")
    valkey.client.execute_command("ACL", "DELUSER", "scaler")  # type: ignore[no-untyped-call]
