"""The services' sidecars on one host (``examples``) and in containers (``deploy``) do the same, at other addresses; and
the broker has what the services use."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from examples.common.messages import EXCHANGE, VHOST, url_of
from examples.task_decomposition import service as tasks
from examples.workspace_isolation import service as workspaces
from sidecar.cli.main import main
from sidecar.config.load import load_text
from sidecar.config.schema import Config
from support.processes import ROOT

NAMES = {"task_decomposition": 10030, "workspace_isolation": 10031}
QUEUES = {tasks.REQUEST, tasks.RESULT, tasks.ERROR, workspaces.CREATE, workspaces.DESTROY, workspaces.STATUS}


def configuration(file: Path) -> Config:
    return load_text(file.read_text().replace("{file: /run/secrets/rabbitmq-sidecar}", "guest"), str(file), {})


@pytest.mark.parametrize("name", NAMES)
def test_it_passes_sidecar_check(name: str) -> None:
    assert main(["check", "--offline", str(ROOT / "examples" / name / "sidecar.yaml")]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_they_do_the_same_on_one_host_and_in_containers(name: str) -> None:
    here = configuration(ROOT / "examples" / name / "sidecar.yaml")
    there = configuration(ROOT / "deploy" / "sidecars" / f"{name.replace('_', '-')}.yaml")
    assert here.service.name == there.service.name
    assert here.inbound is not None
    assert there.inbound is not None
    assert here.inbound.bind.port == there.inbound.bind.port == NAMES[name]
    assert policies(here.inbound) == policies(there.inbound)
    assert here.upstreams.keys() <= there.upstreams.keys()
    for upstream, one in here.upstreams.items():
        other = there.upstreams[upstream]
        assert one.protocol == other.protocol
        assert one.discover == other.discover or upstream == "redis", "in containers Sentinel says which"
        assert policies(one) == policies(other), upstream
        assert [(it.match, policies(it)) for it in one.routes] == [(it.match, policies(it)) for it in other.routes]
    near, far = here.upstreams["rabbitmq"].amqp, there.upstreams["rabbitmq"].amqp
    assert near is not None
    assert far is not None
    assert (near.queues, near.pause_on) == (far.queues, far.pause_on)
    assert set(near.vhosts) <= set(far.vhosts)


def policies(site: object) -> dict[str, object]:
    """But for where queued requests are kept, and the check of a node's role, which one host has not."""
    found: dict[str, object] = dict(getattr(site, "policies"))  # noqa: B009 - of listeners and of routes
    return {name: it for name, it in found.items() if name not in ("queue", "health")}


def test_the_broker_has_their_queues_and_routes() -> None:
    given = json.loads((ROOT / "deploy" / "rabbitmq" / "definitions.json").read_text())
    bound = {it["routing_key"] for it in given["bindings"] if (it["vhost"], it["source"]) == (VHOST, EXCHANGE)}
    assert bound >= QUEUES
    assert {it["name"] for it in given["queues"] if it["vhost"] == VHOST} >= QUEUES


def test_a_login_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p@ss/word\n")
    environment = {"AMQP_USER": "sutazai", "AMQP_PASSWORD_FILE": str(tmp_path / "password"), "AMQP_PORT": "1"}
    assert url_of(environment) == "amqp://sutazai:p%40ss%2Fword@127.0.0.1:1/%2Fsutazai"
    assert url_of({}) == "amqp://guest:guest@127.0.0.1:5672/%2Fsutazai"


def test_no_example_imports_the_sidecar() -> None:
    for file in (ROOT / "examples").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [it.name for it in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(it.split(".")[0] == "sidecar" for it in names), file
