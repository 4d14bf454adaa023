"""``sidecar export`` beside a real Consul, and what a real HAProxy makes of it."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import yaml

from support.consul import ConsulAgent
from support.patience import PATIENCE
from support.processes import App, Process, ending, free_port, get, missing, wait_for

TABLE = """
routes:
  - {path: /api/v1/tasks, service: tasks, methods: [GET]}
  - {path: /api/shop, service: shop, strip: true, rate_limit: 1000/h}
"""


def export(tmp_path: Path, consul: ConsulAgent, kind: str, *arguments: str) -> Process:
    (tmp_path / "routes.yaml").write_text(TABLE)
    command = [sys.executable, "-m", "sidecar", "export", kind, "--routes", str(tmp_path / "routes.yaml")]
    where = ["--registry", f"consul://127.0.0.1:{consul.http_port}", "-o", str(tmp_path / kind)]
    return Process([*command, *where, *arguments], tmp_path / f"{kind}.log")


def written(tmp_path: Path, kind: str, piece: str) -> str:
    """The file, once that is in it."""

    def text() -> str:
        file = tmp_path / kind
        found = file.read_text() if file.exists() else ""
        return found if piece in found else ""

    done: str = wait_for(text, lambda: f"no {piece!r} in {kind}: {(tmp_path / f'{kind}.log').read_text()}")
    return done


def test_kongs_file_changes_with_the_services_and_not_with_their_instances(tmp_path: Path) -> None:
    with ConsulAgent() as consul, ending(export(tmp_path, consul, "kong", "--watch")) as (exporter,):
        written(tmp_path, "kong", "/api/shop")
        before = (tmp_path / "kong").stat().st_mtime_ns
        consul.register("shop", "shop-1", 8081)
        consul.register("shop", "shop-2", 8082)
        consul.register("things", "things-1", 8083, Tags=["route:/api/v1/things"])
        text = written(tmp_path, "kong", "/api/v1/things")
        first = (tmp_path / "kong").stat().st_mtime_ns
        assert first > before
        assert [it["name"] for it in yaml.safe_load(text)["services"]] == ["shop", "tasks", "things"]
        assert "8081" not in text
        consul.kill()  # it stays as it is, and this is said once
        wait_for(lambda: "cannot be asked" in exporter.output(), exporter.output)
        consul.start()
        consul.register("things", "things-1", 8083, Tags=["route:/api/v2/things"])
        written(tmp_path, "kong", "/api/v2/things")  # and then it is told
        wait_for(lambda: "all is well again" in exporter.output(), exporter.output)
        assert exporter.terminate() == 0
        assert exporter.output().count("all is well again") == 1


def test_haproxy_routes_as_the_table_says(tmp_path: Path) -> None:
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        missing("there is no haproxy: install the package haproxy")
    shop, tasks = App(tmp_path, "shop"), App(tmp_path, "tasks")
    with ConsulAgent() as consul, ending(shop, tasks):
        for app in (shop.ready(), tasks.ready()):
            consul.register(app.name, f"{app.name}-1", app.port)
        assert export(tmp_path, consul, "haproxy", "--targets").popen.wait(PATIENCE) == 0
        port = free_port()
        config = re.sub(r"bind :8000", f"bind 127.0.0.1:{port}", written(tmp_path, "haproxy", "127.0.0.1"))
        (tmp_path / "gateway.cfg").write_text(config)
        with ending(Process([program, "-f", str(tmp_path / "gateway.cfg"), "-db"], tmp_path / "gateway.log")):
            gateway = f"http://127.0.0.1:{port}"
            wait_for(lambda: get(f"{gateway}/api/v1/tasks/7")[0] == 200, (tmp_path / "gateway.log").read_text)
            assert get(f"{gateway}/nowhere")[0] == 404
            _, body = get(f"{gateway}/api/shop/path/7")
            assert (body["name"], body["target"]) == ("shop", "/path/7")
            _, body = get(f"{gateway}/api/v1/tasks/7")
            assert (body["name"], body["target"]) == ("tasks", "/api/v1/tasks/7")
