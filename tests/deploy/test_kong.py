"""Kong's routes in ``deploy``: they lead to sidecars that there are, and leave to these what is theirs."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from sidecar.config.load import load_text
from sidecar.config.schema import Config
from support.kong_shape import mistakes
from support.processes import ROOT

GIVEN: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "kong" / "kong.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = {it["name"]: it for it in GIVEN["services"]}
#: The prefix of each service, and whether the service sees it.
ROUTES = {
    "greeter": ("/api/v1/greeting", False),
    "task-decomposition": ("/api/v1/tasks", True),
    "workspace-isolation": ("/api/v1/workspaces", True),
    "ollama": ("/api/ollama", False),
}


def of(name: str) -> Config:
    file = ROOT / "deploy" / "sidecars" / f"{name}.yaml"
    return load_text(file.read_text().replace("{file: /run/secrets/rabbitmq-sidecar}", "x"), str(file), {})


def test_they_are_those_of_the_reports_and_of_the_example() -> None:
    found = {name: [(it["paths"], it["strip_path"]) for it in service["routes"]] for name, service in SERVICES.items()}
    assert found == {name: [([path], not seen)] for name, (path, seen) in ROUTES.items()}


def test_kong_takes_it() -> None:
    assert mistakes(GIVEN) == []


@pytest.mark.parametrize("name", ROUTES)
def test_each_leads_to_what_a_sidecar_registers(name: str) -> None:
    config, service = of(name), SERVICES[name]
    assert config.service.name == name
    (upstream,) = (it for it in GIVEN["upstreams"] if it["name"] == service["host"])
    assert [it["target"] for it in upstream["targets"]] == [f"{name}.service.consul"]
    assert service["retries"] == 0, "the sidecar's own would be multiplied"
    assert config.inbound is not None
    assert service["read_timeout"] >= 1000 * config.inbound.policies["timeout"].request, "the sidecar gives up first"
    asked = upstream["healthchecks"]["active"]["http_path"]
    assert asked == ("/api/version" if name == "ollama" else "/health")
