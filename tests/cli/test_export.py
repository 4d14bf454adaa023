"""What ``sidecar export`` writes for Kong, HAProxy and Prometheus, and when."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.cli.export import haproxy, kong, prometheus
from sidecar.cli.export.mesh import Mesh, Source
from sidecar.cli.export.table import RouteSettings, TableSettings, health, limit, read, routes
from sidecar.cli.export.write import Output, once, push, replace
from sidecar.cli.main import main
from sidecar.config.errors import ConfigError
from sidecar.core.instance import Instance, OnChange
from support.kong_shape import mistakes
from support.processes import missing

TABLE = """
consul_dns: 127.0.0.1:8600
otlp: http://jaeger:4318
x-note: for people
routes:
  - {path: /api/v1/tasks, service: task-decomposition, rate_limit: 100/s, methods: [POST, get]}
  - {path: /api/v1/tasks/old, service: task-decomposition, health: /well}
  - {path: /api/v1/workspaces, service: workspace-isolation, rate_limit: 90/m, timeout: 90s}
  - {path: /api/ollama, service: ollama, strip: true, stream: true}
"""


def table(tmp_path: Path, text: str = TABLE) -> TableSettings:
    file = tmp_path / "routes.yaml"
    file.write_text(text)
    return read(str(file))


def mesh(tmp_path: Path, **more: Any) -> Mesh:
    of = table(tmp_path)
    return Mesh(of, routes(of, {}), **more)


# ---- the table


def test_every_mistake_of_a_table_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        table(
            tmp_path,
            "routes:\n  - {path: api, servce: x}\n  - {path: /a, service: x, health: /b}\n"
            "  - {path: /a, service: y}\n  - {path: /c, service: x, health: /d}\n  - {path: '/a b', service: z}\n"
            "  - {path: /e}\n",
        )
    told = str(raised.value)
    for piece in (
        "did you mean service?", "routes[5].service: is missing", "routes[2].path: stands there twice",
        "leads to x already", "routes[3].health: is not what another route", 'found:   "/a b"',
    ):  # fmt: skip
        assert piece in told


@pytest.mark.parametrize(("text", "told"), [("", "is empty"), ("[]", "wrong type"), ("routes: {", "YAML")])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        table(tmp_path, text)


def test_one_path_may_lead_apart_by_method(tmp_path: Path) -> None:
    both = table(tmp_path, "routes: [{path: /a, service: r, methods: [GET]}, {path: /a, service: w, methods: [POST]}]")
    assert [route.service for route in routes(both, {})] == ["r", "w"]


def test_the_most_specific_route_is_the_first(tmp_path: Path) -> None:
    assert [route.path for route in mesh(tmp_path).routes] == [
        "/api/v1/workspaces", "/api/v1/tasks/old", "/api/v1/tasks", "/api/ollama",
    ]  # fmt: skip


def test_a_tag_gives_a_service_a_route_but_takes_none(tmp_path: Path) -> None:
    tags = {
        "things": ["route:/api/v1/things", "v1"],
        "thief": ["route:/api/ollama"],
        "odd": ["route:no", "route:/a b", "route:/x\nuse_backend y", "route:"],
        "odd name": ["route:/odd"],
    }
    found = {route.path: route.service for route in routes(table(tmp_path), tags)}
    assert found.keys() - {route.path for route in mesh(tmp_path).routes} == {"/api/v1/things"}
    assert found["/api/ollama"] == "ollama"


def test_health_is_that_of_any_route_of_the_service(tmp_path: Path) -> None:
    services = mesh(tmp_path).services
    assert health(services["task-decomposition"]) == "/well"
    assert health(services["ollama"]) == "/health"


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(100.0, (100, 1)), (1.5, (90, 60)), (1 / 60, (1, 60)), (1 / 3600, (1, 3600)), (1e-6, (1, 3600)), (0.3, (18, 60))],
)
def test_a_rate_as_a_whole_number(rate: float, expected: tuple[int, int]) -> None:
    assert limit(rate) == expected


# ---- Kong


def test_kong_takes_all_that_is_written(tmp_path: Path) -> None:
    of = mesh(tmp_path, instances={"ollama": [Instance(host="10.0.0.7", port=10, weight=3)]})
    for it in (of, mesh(tmp_path)):
        document = yaml.safe_load(kong.render(it))
        assert document["_format_version"] == "3.0"
        assert mistakes(document) == []


def test_what_kong_would_not_take_is_found(tmp_path: Path) -> None:
    document = kong.document(mesh(tmp_path))
    service, upstream = document["services"][0], document["upstreams"][0]
    service["retries"] = "0"
    service["strip_path"] = True
    del service["routes"][0]["name"]
    upstream["healthchecks"]["active"]["unhealthy"]["http_statuses"] = [500, True]
    upstream["targets"] = {"target": "a"}
    assert mistakes(document) == [
        ".services[0].strip_path is unknown",
        ".services[0].retries is no number",
        ".services[0].routes[0].name is missing",
        ".upstreams[0].healthchecks.active.unhealthy.http_statuses[1] is no number",
        ".upstreams[0].targets is no list",
    ]


def test_kongs_defaults_that_would_do_harm_are_set(tmp_path: Path) -> None:
    document = kong.document(mesh(tmp_path))
    by_name = {it["name"]: it for it in document["services"]}
    for service in by_name.values():
        assert service["retries"] == 0
        assert service["connect_timeout"] == 1000
        assert service["host"] in {it["name"] for it in document["upstreams"]}
        assert ":" not in service["host"]
        assert all("*" not in path for route in service["routes"] for path in route["paths"])
    assert by_name["ollama"]["read_timeout"] == 600_000
    (ollama,) = by_name["ollama"]["routes"]
    assert (ollama["strip_path"], ollama["request_buffering"], ollama["response_buffering"]) == (True, False, False)
    old, tasks = by_name["task-decomposition"]["routes"]
    assert (tasks["strip_path"], tasks["request_buffering"], tasks["methods"]) == (False, True, ["GET", "POST"])
    assert tasks["plugins"][0]["config"] == {
        "second": 100, "policy": "local", "limit_by": "ip", "fault_tolerant": True,
    }  # fmt: skip
    assert "plugins" not in old
    (workspaces,) = by_name["workspace-isolation"]["routes"]
    assert workspaces["plugins"][0]["config"]["minute"] == 90
    for upstream in document["upstreams"]:
        checks = upstream["healthchecks"]
        assert checks["active"]["healthy"]["interval"] == checks["active"]["unhealthy"]["interval"] == 5
        assert 503 not in checks["active"]["unhealthy"]["http_statuses"]
        assert checks["passive"]["unhealthy"]["http_failures"] == 0
    assert {it["name"] for it in document["plugins"]} == {"prometheus", "opentelemetry"}
    assert document["plugins"][1]["config"]["traces_endpoint"] == "http://jaeger:4318/v1/traces"
    assert all(document["plugins"][0]["config"].values())


def test_by_dns_the_file_only_knows_services(tmp_path: Path) -> None:
    text = kong.render(mesh(tmp_path))
    targets = [it["targets"] for it in yaml.safe_load(text)["upstreams"]]
    assert targets[0] == [{"target": "ollama.service.consul", "tags": ["sidecar"]}]
    assert "KONG_DNS_RESOLVER=127.0.0.1:8600" in text


def test_with_targets_it_knows_instances(tmp_path: Path) -> None:
    instances = [Instance(host="fd00::7", port=80, weight=70000), Instance(host="10.0.0.7", port=81)]
    text = kong.render(mesh(tmp_path, instances={"ollama": instances}))
    upstreams = {it["name"]: it["targets"] for it in yaml.safe_load(text)["upstreams"]}
    assert [(it["target"], it["weight"]) for it in upstreams["ollama.mesh"]] == [
        ("[fd00::7]:80", 65535), ("10.0.0.7:81", 1),
    ]  # fmt: skip
    assert upstreams["task-decomposition.mesh"] == []
    assert "KONG_DNS" not in text


# ---- HAProxy


@pytest.mark.parametrize("targets", [False, True])
def test_haproxy_takes_what_is_written(tmp_path: Path, targets: bool) -> None:
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        missing("there is no haproxy: install the package haproxy")
    instances = {"ollama": [Instance(host="10.0.0.7", port=80, weight=999), Instance(host="fd00::7", port=80)]}
    file = tmp_path / "haproxy.cfg"
    file.write_text(haproxy.render(mesh(tmp_path, instances=instances if targets else None)))
    done = subprocess.run([program, "-c", "-f", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ALERT" not in done.stderr
    assert "WARNING" not in done.stderr, done.stderr


# ---- Prometheus


def test_prometheus_finds_sidecars(tmp_path: Path) -> None:
    sidecars = [
        Instance(host="10.0.0.7", port=15020, id="web-1-sidecar", meta={"service": "web"}),
        Instance(host="fd00::7", port=15020, id="shop-sidecar"),
    ]
    assert json.loads(prometheus.render(Mesh(TableSettings(), (), sidecars=sidecars))) == [
        {"targets": ["10.0.0.7:15020"], "labels": {"service": "web", "instance": "web-1-sidecar"}},
        {"targets": ["[fd00::7]:15020"], "labels": {"service": "shop", "instance": "shop-sidecar"}},
    ]


# ---- the registry


class Registry:
    """Has what a test says; implements what a :class:`Source` asks of a registry."""

    def __init__(self) -> None:
        self.tags: dict[str, frozenset[str]] = {}
        self.found: dict[str, tuple[Instance, ...]] = {}
        self.watched: dict[str, OnChange] = {}
        self.away: Exception | None = None

    async def services(self) -> Mapping[str, frozenset[str]]:
        if self.away is not None:
            raise self.away
        return self.tags

    async def sidecars(self) -> Sequence[Instance]:
        return [Instance(host="10.0.0.2", port=2, id="b"), Instance(host="10.0.0.1", port=1, id="a")]

    async def answered(self) -> None: ...

    def watch(self, service: str, tag: str, on_change: OnChange) -> Callable[[], None]:
        self.watched[service] = on_change
        on_change(self.found.get(service, ()))
        return lambda: self.watched.__delitem__(service)


def source(of: Any, *, targets: bool = False, sidecars: bool = False) -> Source:
    return Source(TableSettings(), of, targets=targets, sidecars=sidecars)


def test_services_that_come_and_go_are_followed() -> None:
    registry = Registry()
    asked = source(registry, targets=True)
    registry.tags = {"a": frozenset({"route:/a"}), "b": frozenset()}
    registry.found = {"a": (Instance(host="10.0.0.2", port=1), Instance(host="10.0.0.1", port=1))}
    found = asyncio.run(asked.ask())
    assert [route.path for route in found.routes] == ["/a"]
    assert found.instances is not None
    assert [it.host for it in found.instances["a"]] == ["10.0.0.1", "10.0.0.2"]
    registry.watched["a"]((Instance(host="10.0.0.3", port=1),))
    found = asyncio.run(asked.ask())
    assert found.instances is not None
    assert [it.host for it in found.instances["a"]] == ["10.0.0.3"]
    registry.tags = {}
    found = asyncio.run(asked.ask())
    assert (found.routes, found.instances, registry.watched) == ([], {}, {})


def test_sidecars_stand_in_a_stable_order() -> None:
    assert [it.id for it in asyncio.run(source(Registry(), sidecars=True).ask()).sidecars] == ["a", "b"]


def test_without_a_registry_there_is_the_table() -> None:
    assert asyncio.run(source(None).ask()) == Mesh(TableSettings(), [])


# ---- writing


def test_a_file_is_written_only_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "kong.yml"
    output = Output(str(file))
    assert output.write("one\n")
    before = file.stat()
    assert not output.write("one\n")
    assert not Output(str(file)).write("one\n")
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert output.write("two\n")
    assert (file.read_text(), os.listdir(tmp_path)) == ("two\n", ["kong.yml"])
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_file_that_is_mounted_by_itself_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(os, "replace", busy)
    replace(tmp_path / "kong.yml", "text")
    assert ((tmp_path / "kong.yml").read_text(), os.listdir(tmp_path)) == ("text", ["kong.yml"])


def test_what_goes_wrong_is_said_and_leaves_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry, file = Registry(), tmp_path / "out"
    output = Output(str(file))

    def run() -> str:
        return asyncio.run(once(prometheus.render, source(registry), output))

    assert run() == ""
    assert "written to" in capsys.readouterr().err
    registry.away = OSError("refused")
    assert "the registry cannot be asked: refused" in run()
    registry.away = TimeoutError()
    assert "not answered within" in run()
    assert file.read_text() == "[]\n"
    registry.away = None
    output = Output(str(tmp_path / "nowhere" / "out"))
    assert "cannot be written" in run()


@pytest.fixture
def kongs_admin() -> Iterator[tuple[str, list[Any]]]:
    """The address of what answers as ``POST /config`` does, and what it got. It refuses a text with "bad" in it."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
            self.send_response(400 if "bad" in got[-1][1]["config"] else 201)
            self.end_headers()
            self.wfile.write(b'{"message":"declarative config is invalid"}')

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    thread.join()
    server.server_close()


def test_kong_is_handed_what_is_new(tmp_path: Path, kongs_admin: tuple[str, list[Any]]) -> None:
    url, got = kongs_admin
    output = Output(str(tmp_path / "kong.yml"), f"{url}/")
    assert output.write("a: 1\n")
    assert not output.write("a: 1\n")
    assert got == [("/config", {"config": "a: 1\n"})]
    for _ in range(2):  # what was refused is offered again
        with pytest.raises(OSError, match=r"refuses it with 400.*is invalid"):
            output.write("bad")
    assert len(got) == 3


def test_a_kong_that_is_away_is_named() -> None:
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:1 cannot be reached"):
        push("http://127.0.0.1:1", "")


# ---- the command


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["kong"], "needs a route table"),
        (["prometheus", "--registry", "none"], "cannot be none"),
        (["haproxy", "--routes", "R", "--push", "http://x"], "--push is for kong"),
        (["kong", "--routes", "R", "--push", "kong:8001"], "is not a URL"),
        (["kong", "--routes", "R", "--registry", "none", "--targets"], "--targets needs a registry"),
        (["kong", "--routes", "R", "--registry", "consul"], "did you mean consul://127.0.0.1:8500"),
        (["haproxy", "--routes", "R", "--registry", "none"], "HAProxy asks DNS servers by their address"),
    ],
)
def test_misuse_is_told(arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text("routes: []\n")
    assert main(["export", *(str(file) if it == "R" else it for it in arguments)]) == 2
    assert told in capsys.readouterr().err


def test_what_is_printed_is_what_stands_in_deploy(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(__file__).parents[2] / "deploy" / "kong"
    assert main(["export", "kong", "--registry", "none", "--routes", str(folder / "routes.yaml")]) == 0
    assert capsys.readouterr().out == (folder / "kong.yml").read_text()


def test_a_folder_is_a_registry_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mesh").mkdir()
    file = tmp_path / "routes.yaml"
    file.write_text("routes: [{path: /a, service: a}]\n")
    arguments = ["export", "kong", "--routes", str(file), "--registry", f"directory://{tmp_path / 'mesh'}"]
    assert main(arguments) == 0
    assert yaml.safe_load(capsys.readouterr().out)["upstreams"][0]["targets"] == []
    assert main([*arguments[:-1], f"directory://{file}"]) == 1
    assert "cannot be used" in capsys.readouterr().err


def test_routes_can_be_made_of_all_settings() -> None:
    route = RouteSettings(path="/a", service="a", timeout=1.0)
    assert (route.methods, route.strip, route.stream, route.rate_limit) == ((), False, False, None)
