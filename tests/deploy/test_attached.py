"""The examples of ``sidecar attach``: they are what it prints today, and the platforms' own tools take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.cli.attach.command import made
from sidecar.cli.attach.compose_file import read
from sidecar.config.load import load
from support.deploy_tools import compose, kubernetes, systemd
from support.processes import ROOT

FOLDER = ROOT / "deploy" / "attach"
KINDS = ("compose", "swarm", "kubernetes", "systemd")


def printed(kind: str) -> dict[str, str]:
    file = str(FOLDER / "compose.yml")
    return made(file, read(file, "shop"), kind)


def test_the_examples_are_what_it_prints() -> None:
    found = {name: text for kind in KINDS for name, text in printed(kind).items()}
    there = {path.name: path.read_text() for path in FOLDER.iterdir() if path.name != "compose.yml"}
    assert there == found


def test_the_configuration_is_one() -> None:
    assert load(FOLDER / "shop.yaml").service.name == "shop"


def test_compose_takes_the_override() -> None:
    plain = compose(FOLDER / "compose.yml")["services"]
    services = compose(FOLDER / "compose.yml", FOLDER / "shop.sidecar.yml")["services"]
    assert services.keys() - plain.keys() == {"shop-pod", "shop-sidecar"}
    for name in ("shop", "shop-sidecar"):
        assert services[name]["network_mode"] == "service:shop-pod"
        assert "ports" not in services[name]
        assert "networks" not in services[name]
        assert services[name]["depends_on"]["shop-pod"]["restart"] is True, "a new pod has a new namespace"
    assert services["shop"]["depends_on"]["shop-sidecar"]["condition"] == "service_healthy", "its ports are bound"
    assert services["shop-sidecar"]["healthcheck"] == {"interval": "2s"}, "the test is the image's"
    assert services["shop"]["pre_stop"][0]["command"] == ["/opt/sidecar/probe/sidecar-probe", "drain"]
    (port,) = services["shop-pod"]["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "8000", 10080)
    assert services["shop-pod"]["networks"] == {"back": {"aliases": ["shop"]}}
    assert services["shop"]["environment"] == plain["shop"]["environment"] | {
        "BROKER_URL": "amqp://127.0.0.1:5672//",
        "REDIS_URL": "redis://127.0.0.1:6379/0",
        "STOCK_URL": "http://127.0.0.1:18080",
    }


#: What `docker stack deploy` leaves out without a word.
IGNORED = {
    "network_mode",
    "restart",
    "container_name",
    "cpus",
    "mem_limit",
    "links",
    "userns_mode",
    "build",
    "security_opt",
}


def test_a_stack_is_one_that_swarm_carries_out_as_it_stands() -> None:
    added: dict[str, Any] = yaml.safe_load((FOLDER / "shop.swarm.yml").read_text())
    assert added.keys() == {"services", "configs"}
    (shop,) = added["services"].values()
    assert not shop.keys() & IGNORED
    assert shop["deploy"]["endpoint_mode"] == "dnsrr"
    assert {port["mode"] for port in shop["ports"]} == {"host"}, "Swarm refuses ingress beside dnsrr"
    assert "${" in added["configs"]["shop-sidecar"]["name"], "a config is never changed, so its name has to be"
    whole = compose(FOLDER / "compose.yml", FOLDER / "shop.swarm.yml", environment={"SIDECAR_CONFIG_VERSION": "7"})
    assert whole["configs"]["shop-sidecar"] == {"name": "shop-sidecar-7", "file": str(FOLDER / "shop.yaml")}
    assert whole["services"]["shop"]["configs"] == [
        {"source": "shop-sidecar", "target": "/etc/sidecar/sidecar.yaml"},
    ]


def test_paths_hold_wherever_the_files_are_written(tmp_path: Path) -> None:
    file = tmp_path / "app" / "compose.yml"
    file.parent.mkdir()
    file.write_bytes((FOLDER / "compose.yml").read_bytes())
    for folder in (tmp_path / "app" / "deploy", tmp_path / "beside"):
        folder.mkdir()
        for kind in ("compose", "swarm"):
            for name, text in made(str(file), read(str(file), "shop"), kind, folder=str(folder)).items():
                (folder / name).write_text(text)
        volumes = compose(file, folder / "shop.sidecar.yml")["services"]["shop-sidecar"]["volumes"]
        assert volumes[0]["source"] == str(folder / "shop.yaml")
        assert compose(file, folder / "shop.swarm.yml")["configs"]["shop-sidecar"]["file"] == str(folder / "shop.yaml")


def patched(value: Any, patch: Any) -> Any:
    """As much of a strategic merge as a Deployment needs: mappings by key, lists by the names in them."""
    if isinstance(value, dict) and isinstance(patch, dict):
        return value | {key: patched(value.get(key), it) for key, it in patch.items()}
    if isinstance(value, list) and all(isinstance(it, dict) and "name" in it for it in [*value, *patch]):
        named = {it["name"]: it for it in value}
        return list((named | {it["name"]: patched(named.get(it["name"]), it) for it in patch}).values())
    return patch


def test_kubernetes_takes_a_deployment_that_was_patched(tmp_path: Path) -> None:
    app = {"name": "shop", "image": "shop:1.0", "env": [{"name": "LOG_LEVEL", "value": "info"}]}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "shop"}},
            "template": {"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [app]}},
        },
    }
    whole = patched(deployment, yaml.safe_load((FOLDER / "shop.patch.yml").read_text()))
    (container,) = whole["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "shop:1.0"
    assert len(container["env"]) == 4
    kubernetes(tmp_path, yaml.safe_load((FOLDER / "shop.configmap.yml").read_text()), whole)


def test_kubernetes_schemas_notice_a_key_that_is_none(tmp_path: Path) -> None:
    config = yaml.safe_load((FOLDER / "shop.configmap.yml").read_text())
    with pytest.raises(AssertionError, match="dta"):
        kubernetes(tmp_path, config | {"dta": {}})


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (FOLDER / "shop-sidecar.service").read_text()
    unit = tmp_path / "shop-sidecar.service"
    unit.write_text(text.replace("/opt/sidecar/bin/sidecar", "/bin/true"))  # it looks whether the program is there
    systemd(unit)
    unit.write_text(unit.read_text().replace("Restart=", "Restrat="))
    with pytest.raises(AssertionError, match="Restrat"):
        systemd(unit)
