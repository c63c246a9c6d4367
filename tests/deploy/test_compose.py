"""docker-compose.yml: what Compose, docker-compose and podman-compose all understand, and what must hold in it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import settings as gateway_settings
from gateway.server import ACCEPT_S, END_S, GRACE_S
from shared import traces
from shared.settings import rules
from tests.services import ROOT
from worker import settings as worker_settings

COMPOSE = ROOT / "docker-compose.yml"
TEXT = COMPOSE.read_text()
ENV = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env").read_text(), re.MULTILINE))
SERVERS = ["swarm-0", "swarm-1", "swarm-2", "swarm-3"]
OURS = ["gateway", "batches", "worker", *SERVERS]
WATCHING = ["prometheus", "grafana"]


def load(**environ: str) -> Any:
    """The file, with variables put in as all of the three tools do: ${NAME:-default}, or ${NAME-default} where the
    variable may be empty."""
    values = ENV | environ
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: values.get(found[1]) or found[2], TEXT)
    text = re.sub(r"\$\{(\w+)-([^}]*)\}", lambda found: str(values.get(found[1], found[2])), text)
    assert "${" not in text
    return yaml.safe_load(text)


SERVICES = load()["services"]


def test_podman_compose_understands_it(tmp_path: Path) -> None:
    """It asks for the version of podman only, so that any will do."""
    # given
    podman = tmp_path / "podman"
    podman.write_text("#!/bin/sh\necho podman version 5.0.0\n")
    podman.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "COROLLA_PORT": "9000"}
    # when
    command = [str(Path(sys.executable).with_name("podman-compose")), "config"]
    done = subprocess.run(command, check=True, cwd=ROOT, env=environ, capture_output=True, text=True)
    # then
    understood = yaml.safe_load(done.stdout)["services"]
    expected = load(COROLLA_PORT="9000")["services"]
    assert understood.keys() == expected.keys() - {"swarm-2", "swarm-3", *WATCHING}
    for name, service in understood.items():
        assert service["image"] == expected[name]["image"]
        assert service.get("ports") == expected[name].get("ports")
        assert service.get("environment", {}).keys() == expected[name].get("environment", {}).keys()


def test_what_there_is() -> None:
    assert list(SERVICES) == ["nginx", "gateway", "batches", "worker", *SERVERS, "valkey", *WATCHING]
    assert load()["networks"].keys() == {name for each in SERVICES.values() for name in each["networks"]}
    named = {volume.partition(":")[0] for each in SERVICES.values() for volume in each["volumes"] if ":" in volume}
    assert load()["volumes"].keys() == {name for name in named if name.isalpha()}


def test_the_demo_swarm_is_there_unless_it_is_not_wanted() -> None:
    profiles = {name: each.get("profiles") for name, each in SERVICES.items()}
    assert {name for name, asked in profiles.items() if asked == ["demo"]} == {"swarm-0", "swarm-1"}
    assert {name for name, asked in profiles.items() if asked == ["spare"]} == {"swarm-2", "swarm-3"}
    assert [name for name, asked in profiles.items() if asked == ["observe"]] == WATCHING
    assert ENV["COMPOSE_PROFILES"] == "demo"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_locked(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp"]
    assert service["restart"] == "unless-stopped"
    assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid", "container_name", "env_file"}
    # Images of our own name their user themselves.
    assert ("user" in service) is (name not in OURS)


def test_only_the_load_balancer_is_reached_from_outside() -> None:
    assert {name for name, each in SERVICES.items() if "ports" in each} == {"nginx", "grafana"}
    assert SERVICES["grafana"]["ports"] == ["127.0.0.1:3000:3000"]
    assert SERVICES["nginx"]["ports"] == ["127.0.0.1:8000:8080"]
    assert load(COROLLA_PORT="9000", COROLLA_ADDRESS="127.0.0.1")["services"]["nginx"]["ports"] == [
        "127.0.0.1:9000:8080"
    ]


def test_the_broker_can_be_opened_to_other_machines() -> None:
    (service,) = yaml.safe_load((ROOT / "deploy/open-broker.yml").read_text())["services"].values()
    (port,) = service["ports"]
    # On this machine's own address, unless another one is named.
    assert port == "${COROLLA_BROKER_ADDRESS:-127.0.0.1}:${COROLLA_BROKER_PORT:-6379}:6379"
    assert service["networks"] == ["front"]
    assert load()["networks"]["front"] == {}


def test_only_who_needs_it_reaches_the_broker() -> None:
    assert load()["networks"]["broker"] == {"internal": True}
    users = {name for name, each in SERVICES.items() if "broker" in each["networks"]}
    assert users == {"gateway", "batches", "worker", "valkey"}


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_our_own_or_of_a_known_version(name: str) -> None:
    service = SERVICES[name]
    ours = name in OURS
    # Podman asks for no registry that is not named.
    assert re.fullmatch(r"corolla-(gateway|worker)" if ours else r"docker\.io/[\w/]+:v?\d+(\.\d+)*", service["image"])


def test_each_image_is_built_by_one_service_and_before_others_run_it() -> None:
    """Compose 2 builds all services at once, and two of them cannot make the same tag; 1.29 builds one by one."""
    builders = {each["image"]: name for name, each in SERVICES.items() if "build" in each}
    assert builders == {"corolla-gateway": "gateway", "corolla-worker": "worker"}
    for name in set(OURS) - set(builders.values()):
        assert builders[SERVICES[name]["image"]] in SERVICES[name]["depends_on"]


def test_the_worker_needs_no_gpu_unless_told_so() -> None:
    index = "https://download.pytorch.org/whl/cpu"
    assert ENV["TORCH_INDEX"] == index
    assert f"ARG TORCH_INDEX={index}\n" in (ROOT / "deploy/images/worker.Dockerfile").read_text()
    for environ in ({}, {"TORCH_INDEX": "https://mirror.example/cu130"}, {"TORCH_INDEX": ""}):
        arguments = load(**environ)["services"]["worker"]["build"]["args"]
        assert (arguments["TORCH_INDEX"] or "") == environ.get("TORCH_INDEX", index)
    assert f"${{TORCH_INDEX-{index}}}" in TEXT


def test_one_variable_chooses_another_catalogue_or_swarm() -> None:
    public = load(COROLLA_CATALOG="./deploy/catalogs/public.toml", COROLLA_PEERS="/ip4/1.2.3.4/tcp/1/p2p/Qm")
    for name in OURS:
        service = public["services"][name]
        assert service["environment"]["COROLLA_CATALOG"] == "/app/deploy/catalogs/mounted.toml"
        mount = "./deploy/catalogs/public.toml:/app/deploy/catalogs/mounted.toml:ro,z"
        assert mount in service["volumes"]
        if name not in ("gateway", "batches"):
            assert service["environment"]["COROLLA_PEERS"] == "/ip4/1.2.3.4/tcp/1/p2p/Qm"


@pytest.mark.parametrize("name", SERVICES)
def test_files_of_the_checkout_are_only_read_and_may_be_on_selinux(name: str) -> None:
    for volume in SERVICES[name]["volumes"]:
        source, _, *options = volume.split(":")
        assert options == (["ro,z"] if source.startswith("./") else [])


def test_scripts_run_whatever_has_become_of_their_mode() -> None:
    """A checkout on a file system without modes, or an archive, may have lost it; and on Windows their line ends."""
    assert SERVICES["nginx"]["command"] == SERVICES["valkey"]["entrypoint"] == ["sh", "/etc/corolla/start.sh"]
    assert "*.sh text eol=lf\n" in (ROOT / ".gitattributes").read_text()


def test_passwords_come_from_the_environment_alone() -> None:
    chosen = load(COROLLA_GATEWAY_PASSWORD="g7", COROLLA_WORKER_PASSWORD="w7")["services"]
    assert chosen["valkey"]["environment"] == {"GATEWAY_PASSWORD": "g7", "WORKER_PASSWORD": "w7"}
    assert chosen["gateway"]["environment"]["COROLLA_REDIS_URL"] == "redis://gateway:g7@valkey:6379/0"
    assert chosen["worker"]["environment"]["COROLLA_REDIS_URL"] == "redis://worker:w7@valkey:6379/0"
    assert "w7" not in str(chosen["gateway"])


@pytest.mark.parametrize(
    ("name", "kind", "fixed"),
    [
        ("gateway", gateway_settings.Settings, {"COROLLA_BIND", "COROLLA_TRUSTED_PROXIES", "COROLLA_GATEWAY_NAME"}),
        ("worker", worker_settings.Settings, {"COROLLA_WORKER_NAME"}),
    ],
)
def test_every_setting_can_be_set_from_outside(name: str, kind: type, fixed: set[str]) -> None:
    fixed = fixed | {"COROLLA_REDIS_URL", "COROLLA_CATALOG", "COROLLA_FILES", "COROLLA_METRICS_BIND"}
    environment = SERVICES[name]["environment"]
    for setting in rules(kind).keys() - fixed:
        assert load(**{setting: "x"})["services"][name]["environment"][setting] == "x", setting
    spans = {key for key in environment if key.startswith("OTEL_")}
    assert environment.keys() - spans <= rules(kind).keys()
    for variable in spans:
        assert load(**{variable: "x"})["services"][name]["environment"][variable] == "x"
    assert spans == {
        "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_opentelemetry_has_nothing_to_say_of_variables_that_nobody_has_set(name: str) -> None:
    code = "from shared import traces; traces.configure('http://127.0.0.1:1', 'x'); traces.close()"
    environ = {key: value or "" for key, value in SERVICES[name]["environment"].items()}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_there_is_time_to_stop_in_order() -> None:
    seconds = {name: int(each["stop_grace_period"].removesuffix("s")) for name, each in SERVICES.items()}
    assert seconds["gateway"] > ACCEPT_S + GRACE_S + END_S + traces.CLOSE_TIMEOUT_S
    (nginx_s,) = re.findall(r"worker_shutdown_timeout (\d+)s;", (ROOT / "deploy/nginx/nginx.conf").read_text())
    assert seconds["nginx"] > int(nginx_s)
    assert SERVICES["nginx"]["stop_signal"] == "SIGQUIT"


def test_batches_are_answered_as_gateways_would() -> None:
    gateway, batches = SERVICES["gateway"], SERVICES["batches"]
    assert batches["command"] == ["python", "-m", "gateway.batch_worker"]
    assert batches["healthcheck"] == {"disable": True}  # the image's own asks a gateway
    same = ("image", "environment", "volumes", "stop_grace_period")
    assert [batches[key] for key in same] == [gateway[key] for key in same]


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "batches"])
def test_every_service_has_a_health_check_here(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_health_is_what_the_image_says_it_is(name: str) -> None:
    """Podman builds images of a kind that has no health checks, and so they stand in both files."""
    text = (ROOT / f"deploy/images/{name}.Dockerfile").read_text().replace("\\\n", " ")
    (options, command) = re.findall(r"^HEALTHCHECK (.*?) +CMD (.*)$", text, re.MULTILINE)[0]
    own = dict(SERVICES[name]["healthcheck"])
    assert own.pop("test") == ["CMD", *json.loads(command)]
    assert {key.replace("_", "-"): str(value) for key, value in own.items()} == dict(
        re.findall(r"--([a-z-]+)=(\S+)", options)
    )


def test_nothing_waits_for_health() -> None:
    """Not every container engine runs health checks without being asked; services wait for each other by themselves."""
    assert "service_healthy" not in TEXT


def test_every_variable_is_told_of() -> None:
    used = set(re.findall(r"\$\{(\w+)", TEXT))
    settings = rules(gateway_settings.Settings).keys() | rules(worker_settings.Settings).keys()
    assert used - settings <= ENV.keys()
    assert ENV.keys() - {"COMPOSE_PROFILES"} <= used
