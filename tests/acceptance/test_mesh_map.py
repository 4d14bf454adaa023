"""``GET /mesh``, ``sidecar mesh`` and ``sidecar top`` over real sidecars, in Consul and in a directory."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from sidecar.cli.main import main
from support.consul import ConsulAgent
from support.processes import App, Sidecar, ending, get, wait_for

TOKEN = "sesame"


@pytest.fixture(scope="module", params=["consul", "directory"])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Sidecar]]:
    folder = tmp_path_factory.mktemp("mesh")
    with ending() as running:
        url = f"directory://{folder}/registry"
        if request.param == "consul":
            consul = request.getfixturevalue("consul_agent")
            url = f"consul://127.0.0.1:{consul.http_port}"
        app = App(folder, "app")
        running.append(app)
        app.ready()
        found = []
        for name, calls in (("model", ""), ("tasks", "model"), ("shop", "tasks")):
            config: dict[str, Any] = {
                "service": {"name": name, "address": "127.0.0.1", "app": f"127.0.0.1:{app.port}"},
                "registry": url, "inbound": {"bind": "127.0.0.1:0"},
                "admin": {"bind": "127.0.0.1:0", "token": TOKEN}, "probes": {"bind": "127.0.0.1:0"},
                "upstreams": {"next": {"bind": "127.0.0.1:0", "discover": {"service": calls}}} if calls else {},
            }  # fmt: skip
            found.append(Sidecar(folder, config, name))
            running.append(found[-1])
            found[-1].ready()
        yield found


@pytest.fixture(scope="module")
def consul_agent() -> Iterator[ConsulAgent]:
    with ConsulAgent() as consul:
        yield consul


def seen(sidecar: Sidecar) -> Any:
    request = urllib.request.Request(f"{sidecar.admin}/mesh", headers={"x-sidecar-token": TOKEN})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def edges(found: Any) -> dict[tuple[str, str], Any]:
    return {(it["from"], it["to"]): it for it in found["edges"]}


def run(sidecar: Sidecar, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *command, "--admin", sidecar.admin], capture_output=True, text=True,
        timeout=60, env={"SIDECAR_ADMIN_TOKEN": TOKEN, "PATH": ""}, check=False,
    )  # fmt: skip


def test_who_calls_whom(
    mesh: list[Sidecar], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _, shop = mesh
    monkeypatch.setenv("SIDECAR_ADMIN_TOKEN", TOKEN)

    def said(*command: str) -> str:
        """By the command, run in this process."""
        assert main([*command, "--admin", shop.admin]) == 0
        return capsys.readouterr().out

    def all_seen() -> Any:
        it = seen(shop)
        return it if [(one["kind"], one["instances"]) for one in it["services"]] == [("service", 1)] * 3 else None

    everybody = wait_for(all_seen, "all are seen")
    assert edges(everybody).keys() == {("shop", "tasks"), ("tasks", "model")}
    port = shop.port("next")
    wait_for(lambda: get(f"http://127.0.0.1:{port}/health")[0] == 200, "tasks are found")

    def flowing() -> Any:
        get(f"http://127.0.0.1:{port}/health")
        it = edges(seen(shop))[("shop", "tasks")]
        return it if it["rate"] else None

    edge = wait_for(flowing, "there is a rate")
    assert edge["p99_ms"] > 0
    assert not edge["silent"]
    assert edges(seen(shop))[("tasks", "model")]["silent"], "nothing calls the model"

    text = run(shop, "mesh")
    assert (text.returncode, text.stderr) == (0, "")
    assert "SERVICE" in text.stdout
    assert json.loads(said("mesh", "--json"))["seen_by"] == "shop"
    assert "SERVICE" in said("mesh")
    assert "(inbound)" in said("top", "--count", "1")
    assert "FROM" in said("top", "--mesh", "--count", "1")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{shop.admin}/mesh", timeout=60)

    model.popen.kill()
    model.popen.wait()

    def silent() -> Any:
        it = next(it for it in seen(shop)["services"] if it["name"] == "model")
        return it if it["status"] == "not_answering" else None

    assert "could not be asked" in wait_for(silent, "the model does not answer")["problem"]
