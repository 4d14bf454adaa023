"""``compose.sidecars.yml``: Docker Compose takes each profile; what it makes of it fits together and is locked down."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config.load import load_text
from sidecar.config.schema import Config
from support.deploy_tools import compose
from support.processes import ROOT

FILE = ROOT / "compose.sidecars.yml"
CONFIG_PATH = "/etc/sidecar/sidecar.yaml"
PROFILES = ("", "core", "ai", "monitoring", "full")
#: What each profile adds to the examples, by the names that others find it by.
WORKLOADS = {
    "": {"clock", "greeter"},
    "core": {"rabbitmq", "redis", "postgres", "neo4j"},
    "ai": {"ollama", "qdrant", "chromadb"},
    "monitoring": set(),
    "full": {"rabbitmq-2", "rabbitmq-3", "redis-2"},
}
#: Those without a sidecar: what sidecars go by, what is in front of all, and what watches them.
OTHERS = {
    "": {"consul"},
    "core": {"kong", "sentinel-1"},
    "ai": set(),
    "monitoring": {"prometheus", "alertmanager", "grafana", "loki", "alloy", "jaeger"},
    "full": {"consul-2", "consul-3", "sentinel-2", "sentinel-3", "clocks"},
}
EVERY = sorted(set().union(*WORKLOADS.values()))
#: Where the reports have their two services, which are in examples/ and not part of this file.
FIXED = {"task-decomposition": 10030, "workspace-isolation": 10031}


@functools.cache
def services(profile: str) -> dict[str, dict[str, Any]]:
    """What is started with that profile."""
    found: dict[str, dict[str, Any]] = compose(FILE, profiles=(profile,) if profile else ())["services"]
    return found


def configuration(name: str) -> Config:
    """That of a file in deploy/sidecars, with the environment that sidecars have by default."""
    file = ROOT / "deploy" / "sidecars" / f"{name}.yaml"
    return load_text(file.read_text().replace("{file: /run/secrets/rabbitmq-sidecar}", "a-password"), str(file), {})


def of(workload: str) -> Config:
    """That of the sidecar of a workload."""
    (mount,) = (it for it in services("full")[f"{workload}-sidecar"]["volumes"] if it["target"] == CONFIG_PATH)
    return configuration(Path(mount["source"]).stem)


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_has_its_services_and_each_workload_a_pod_and_a_sidecar(profile: str) -> None:
    parts = PROFILES if profile == "full" else {"", profile}
    workloads = set().union(*(WORKLOADS[it] for it in parts))
    others = set().union(*(OTHERS[it] for it in parts))
    expected = {f"{name}{part}" for name in workloads for part in ("", "-pod", "-sidecar")} | others
    assert services(profile).keys() == expected


@pytest.mark.parametrize("name", EVERY)
class TestWorkload:
    def test_it_shares_the_namespace_of_a_pod_that_stays(self, name: str) -> None:
        full = services("full")
        for it in (name, f"{name}-sidecar"):
            assert full[it]["network_mode"] == f"service:{name}-pod"
            assert "ports" not in full[it]
            assert "networks" not in full[it]
            assert full[it]["depends_on"][f"{name}-pod"]["restart"] is True, "a new pod has a new namespace"
        assert name not in full[f"{name}-sidecar"]["depends_on"], "the sidecar outlives its app"
        assert full[f"{name}-sidecar"]["depends_on"]["consul"]["condition"] == "service_healthy"
        pod = full[f"{name}-pod"]
        assert pod["command"] == ["sleep", "infinity"]
        assert pod["networks"] == {"mesh": {"aliases": [name]}}

    def test_its_sidecar_is_configured_for_it(self, name: str) -> None:
        config, full = of(name), services("full")
        assert config.service.name == re.sub(r"-\d$", "", name)
        assert config.registry.address is not None
        assert str(config.registry.address) == "consul:8500"
        assert config.probes is not None
        assert str(config.probes.bind) == "0.0.0.0:15020"
        assert config.admin.bind.host == "127.0.0.1"
        assert config.inbound is not None
        assert str(config.inbound.bind) == "0.0.0.0:10080"
        assert config.service.app is not None
        assert config.service.app.host == "127.0.0.1"
        (grace,) = re.findall(r"^(\d+)s$", full[f"{name}-sidecar"]["stop_grace_period"])
        assert int(grace) > config.drain.timeout, "what drains is not killed"

    def test_its_published_ports_are_this_hosts_alone(self, name: str) -> None:
        assert all(it["host_ip"] == "127.0.0.1" for it in services("full")[f"{name}-pod"].get("ports", []))


def test_what_sidecars_look_for_is_there() -> None:
    known = {of(name).service.name for name in EVERY}
    for path in (ROOT / "deploy" / "sidecars").iterdir():
        for upstream in configuration(path.stem).upstreams.values():
            assert upstream.bind.host == "127.0.0.1"
            assert upstream.discover is None or upstream.discover.service in known, path.name


def test_each_configuration_is_mounted_or_stands_where_the_reports_have_it() -> None:
    mounted = {of(name).service.name for name in EVERY}
    there = {path.stem for path in (ROOT / "deploy" / "sidecars").iterdir()}
    assert there == mounted | FIXED.keys()
    for name, port in FIXED.items():
        config = configuration(name)
        assert config.service.name == name
        assert config.inbound is not None
        assert config.inbound.bind.port == port


def test_the_numbers_of_the_reports() -> None:
    tasks, workspaces = (configuration(name) for name in FIXED)
    assert tasks.inbound is not None
    assert tasks.inbound.policies["bulkhead"].max_requests == 20
    assert tasks.inbound.policies["bulkhead"].max_connections == 100
    assert workspaces.inbound is not None
    assert workspaces.inbound.policies["bulkhead"].max_requests == 10
    assert workspaces.upstreams["docker"].policies["timeout"].request == 30


def test_the_apps_dial_the_ports_of_their_upstreams() -> None:
    upstream = of("greeter").upstreams["clock"]
    assert services("")["greeter"]["environment"]["CLOCK_URL"] == f"http://{upstream.bind}"
    for name in ("clock", "greeter", "clocks"):
        *_, script, port = services("full")[name]["command"]
        assert (ROOT / "examples" / Path(script).name).is_file()
        assert port == "8080"


def test_what_scales_is_the_entry_point_of_its_own_container() -> None:
    clocks = services("full")["clocks"]
    assert clocks["entrypoint"] == ["sidecar", "exec", CONFIG_PATH, "--"]
    assert "network_mode" not in clocks
    assert "container_name" not in clocks
    assert "ports" not in clocks, "a port of the host is one container's"
    assert clocks["scale"] == 2


def test_all_images_are_pinned_and_all_have_limits_and_come_back() -> None:
    for name, it in services("full").items():
        assert re.search(r":v?\d[\w.-]*$", it["image"]) or it["image"] == "sidecar", name
        assert float(it["cpus"]) > 0, name
        assert int(it["mem_limit"]) > 0, name
        assert it["restart"] == "unless-stopped"


def test_nothing_has_more_rights_than_it_needs() -> None:
    for name, it in services("full").items():
        assert it["security_opt"] == ["no-new-privileges:true"], name
        assert not it.keys() & {"privileged", "cap_add", "pid", "ipc", "devices"}, name
        ours = it["image"] in ("sidecar", "python:3.11-slim") or it["image"].startswith("redis:")
        if ours:
            assert it["read_only"] is True, name
            assert it["cap_drop"] == ["ALL"], name
            assert it["user"].split(":")[0] not in ("0", "root"), name
        sockets = [mount for mount in it.get("volumes", []) if mount["source"] == "/var/run/docker.sock"]
        assert not sockets or name == "alloy"


def test_what_is_mounted_is_there_and_read_only() -> None:
    for name, it in services("full").items():
        for mount in it.get("volumes", []):
            if mount["type"] == "bind":
                assert mount.get("read_only") is True, name
                assert Path(mount["source"]).exists() or mount["source"] == "/var/run/docker.sock", (name, mount)


def test_who_is_waited_for_has_a_health_check() -> None:
    full = services("full")
    for name, it in full.items():
        for other, how in it.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert full[other]["healthcheck"]["test"], (name, other)


def starts_after(name: str, full: dict[str, dict[str, Any]]) -> set[str]:
    direct = full[name].get("depends_on", {}).keys()
    return set(direct).union(*(starts_after(it, full) for it in direct))


def test_they_start_from_what_others_need_to_what_needs_them() -> None:
    full = services("full")
    for name in EVERY:
        assert "consul" in starts_after(f"{name}-sidecar", full)
    assert {"greeter-sidecar", "ollama-sidecar"} <= starts_after("kong", full)
    assert {"prometheus", "loki", "consul"} <= starts_after("grafana", full)
    assert {"rabbitmq", "rabbitmq-2"} <= starts_after("rabbitmq-3", full)
    assert "redis" in starts_after("sentinel-1", full)


def test_secrets_are_files_that_the_script_makes_and_no_value_is_one(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "make-secrets", tmp_path / "made"], check=True, timeout=30)
    made = {path.name: path.read_text() for path in (tmp_path / "made").iterdir()}
    declared = yaml.safe_load(FILE.read_text())["secrets"]
    assert {Path(it["file"].rpartition("}")[2]).name for it in declared.values()} == made.keys()
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "made").iterdir()} == {0o444}
    subprocess.run([sys.executable, ROOT / "scripts" / "make-secrets", tmp_path / "made"], check=True, timeout=30)
    assert {path.name: path.read_text() for path in (tmp_path / "made").iterdir()} == made, "nothing is made anew"
    for name, it in services("full").items():
        for variable, value in (it.get("environment") or {}).items():
            if re.search("PASS|AUTH|SECRET", variable):
                assert value.startswith("/run/secrets/"), (name, variable)


def test_one_more_service_takes_less_than_ten_lines(tmp_path: Path) -> None:
    """As deploy/README.md says it; it is put in front of the section with the networks."""
    (lines,) = re.findall(r"```yaml\n(  shop-pod:.*?)```", (ROOT / "deploy" / "README.md").read_text(), re.DOTALL)
    assert len(lines.splitlines()) < 10
    file = tmp_path / "compose.yml"
    file.write_text(FILE.read_text().replace("\nnetworks:\n  mesh:", f"\n{lines}\nnetworks:\n  mesh:"))
    found = compose(file)["services"]
    assert found["shop"]["network_mode"] == found["shop-sidecar"]["network_mode"] == "service:shop-pod"
    assert found["shop-sidecar"]["depends_on"].keys() == {"consul", "shop-pod"}
    assert found["shop"]["mem_limit"]
