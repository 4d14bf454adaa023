"""``sidecar validate`` gives each of its exit codes on a mesh that is broken in that way, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.main import main
from support.consul import ConsulAgent
from support.patience import PATIENCE
from support.processes import App, Sidecar, ending, free_port, get, wait_for

SECTIONS = ["infrastructure", "service_discovery", "load_balancing", "circuit_breakers", "performance", "dashboard"]


def arguments(*more: str) -> list[str]:
    return [sys.executable, "-m", "sidecar", "validate", *more]


#: Runs it in this process: exit code, standard output, and standard error.
Validate = Callable[..., tuple[int, str, str]]


@pytest.fixture
def validate(capsys: pytest.CaptureFixture[str]) -> Validate:
    def run(*more: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(["validate", *more])
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where validations put what is theirs for the time: a folder of this test's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def left(folder: Path) -> tuple[list[str], list[str]]:
    """What validations have in there, and the processes that they have started."""
    running = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if f"{folder}/sidecar-validate-".encode() in (process / "cmdline").read_bytes():
                    running.append(process.name)
            except OSError:
                continue
    return [it.name for it in folder.glob("sidecar-validate-*")], running


def mesh(registry: str, **upstreams: Any) -> dict[str, Any]:
    return {
        "service": {"name": "web", "address": "127.0.0.1"},
        "registry": registry,
        "upstreams": {name: {"bind": "127.0.0.1:0", "retry": "off", **it} for name, it in upstreams.items()},
    }


@pytest.mark.costly
def test_a_mesh_of_consul_is_valid_then_slow_then_held_then_gone(
    tmp_path: Path, temporary: Path, validate: Validate
) -> None:
    with ConsulAgent() as consul, ending() as processes:
        app = App(tmp_path, "app")
        sidecar = Sidecar(tmp_path, mesh(f"consul://127.0.0.1:{consul.http_port}", tasks={}))
        processes += [app, sidecar]
        consul.register("tasks", "tasks-1", app.port)
        app.ready()
        sidecar.ready()
        wait_for(lambda: get(f"http://127.0.0.1:{sidecar.port('tasks')}/")[0] == 200, "the mesh works")
        before = (consul.services(), left(temporary))

        # Whether a busy machine is quick enough is not asked here.
        code, out, error = validate("--admin", sidecar.admin, "--json", "--degraded-ok")
        assert code == 0, error
        whole(json.loads(out))
        assert "\x1b" not in error
        assert (consul.services(), left(temporary)) == before

        with slow(consul.http_port) as port:
            more = ("--registry", f"consul://127.0.0.1:{port}", "--component", "performance", "--json", str(tmp_path))
            code, out, _ = validate("--admin", sidecar.admin, *more)
        assert code == 5, out
        assert "(at least 100)" in out
        (written,) = tmp_path.glob("mesh_validation_report_*.json")
        report = json.loads(written.read_text())
        assert report["performance"]["discovery_calls_per_second"] < 100
        assert report["dashboard"]["status"] == "skipped"

        held = urllib.request.Request(f"{sidecar.admin}/upstreams/tasks/breaker/open?by=ops", method="POST")
        urllib.request.urlopen(held).close()
        code, out, _ = validate("--admin", sidecar.admin, "--component", "circuit_breakers")
        assert code == 4
        assert "tasks is held open by ops" in out
        assert consul.services() == before[0]

        consul.kill()
        run = subprocess.run(
            arguments("--admin", sidecar.admin), capture_output=True, text=True, timeout=PATIENCE, cwd="/", check=False
        )
        assert run.returncode == 1, run.stderr
        assert "✗ registry" in run.stdout
    assert left(temporary) == before[1]


def whole(report: dict[str, Any]) -> None:
    """The report of a valid mesh has all that it should."""
    assert [key for key in report if key in SECTIONS] == SECTIONS
    assert all(report[name]["status"] == "passed" for name in SECTIONS if name != "performance"), report
    assert report["timestamp"]
    assert report["errors"] == []
    performance = report["performance"]
    assert performance["discovery_calls_per_second"] > 0
    assert performance["load_balancer_selections_per_second"] > 0
    assert performance["topology_generation_seconds"] > 0
    summary = report["summary"]
    assert summary["failed"] == 0
    assert summary["total_tests"] == summary["passed"] + summary["warned"]
    assert summary["pass_rate"] > 80
    tests = {it["test"] for name in SECTIONS for it in report[name]["tests"]}
    assert tests >= {"registration", "deregistration", "weighted", "dead instance", "opens", "closes", "page", "events"}


def test_a_mesh_of_a_folder_is_broken_in_other_ways(tmp_path: Path, temporary: Path, validate: Validate) -> None:
    registry = tmp_path / "registry"
    with ending() as processes:
        upstreams = {"nobody": {}, "refused": {"endpoints": [f"127.0.0.1:{free_port()}"], "circuit_breaker": "off"}}
        sidecar = Sidecar(tmp_path, mesh(f"directory://{registry}", **upstreams))
        processes += [sidecar]
        sidecar.ready()
        before = (sorted(registry.rglob("*")), left(temporary))

        # Ctrl-C, in the middle of it.
        run = subprocess.Popen(arguments("--admin", sidecar.admin), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for(lambda: any(registry.glob("sidecar-validate-*/*.json")), "it has registered something")
        run.send_signal(signal.SIGINT)
        run.send_signal(signal.SIGINT)
        _, error = run.communicate(timeout=PATIENCE)
        assert run.returncode == 130
        assert b"taking everything out" in error
        assert (sorted(registry.rglob("*")), left(temporary)) == before

        assert validate("--admin", sidecar.admin, "--component", "service_discovery")[0] == 2
        with asking(f"http://127.0.0.1:{sidecar.port('refused')}/"):  # an ejection ends by itself
            wait_for(lambda: ejected(sidecar, "refused"), "it is ejected")
            assert validate("--admin", sidecar.admin, "--component", "load_balancing")[0] == 3
        with spoiling(int(sidecar.admin.rpartition(":")[2])) as port:
            assert validate("--admin", f"127.0.0.1:{port}", "--component", "dashboard")[0] == 6
        assert validate("--admin", sidecar.admin, "--component", "nonsense")[0] == 6
        assert validate("--admin", sidecar.admin, "--registry", "ftp://nowhere")[0] == 6
        assert (sorted(registry.rglob("*")), left(temporary)) == before


def ejected(sidecar: Sidecar, upstream: str) -> bool:
    return all(it["ejected"] for it in get(f"{sidecar.admin}/upstreams/{upstream}")[1]["endpoints"])


@contextmanager
def asking(url: str) -> Iterator[None]:
    """Traffic to there meanwhile, whatever it answers."""
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.1):
            get(url)

    asked = threading.Thread(target=ask)
    asked.start()
    try:
        yield
    finally:
        done.set()
        asked.join()


@contextmanager
def slow(port: int, seconds: float = 0.05) -> Iterator[int]:
    """A port that leads to another one, where answers take so long."""

    def late(data: bytes) -> bytes:
        time.sleep(seconds)
        return data

    with between(port, late) as found:
        yield found


@contextmanager
def spoiling(port: int) -> Iterator[int]:
    """A port that leads to an admin API, whose pages lose their policy on the way."""
    with between(port, lambda data: data.replace(b"Content-Security-Policy:", b"X-No-Policy-Is-Left-Now:")) as found:
        yield found


@contextmanager
def between(port: int, answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """A port that leads to another one; what comes back goes through ``answer``."""

    def carry(source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes]) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(change(data))
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                client, _ = server.accept()
                opened.append(client)
                upstream = socket.create_connection(("127.0.0.1", port))
                opened.append(upstream)
            except OSError:
                return
            for ends in ((client, upstream, bytes), (upstream, client, answer)):
                threading.Thread(target=carry, args=ends, daemon=True).start()

    opened: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            acceptor.join(PATIENCE)
            for it in opened:
                it.close()
