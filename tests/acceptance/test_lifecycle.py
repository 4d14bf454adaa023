"""Real sidecars from start to end: ready when it should be, drained as it should be, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.processes import App, Sidecar, ending, free_port, get, wait_for


def _service(app: App, **more: Any) -> dict[str, Any]:
    return {
        "service": {
            "name": "tasks", "id": app.name, "address": "127.0.0.1", "app": f"127.0.0.1:{app.port}",
            "check": {"http": "/health", "interval": "500ms"},
        },
        "inbound": {"bind": "127.0.0.1:0"},
        **more,
    }  # fmt: skip


def _caller(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "service": {"name": "web"},
        "registry": f"directory://{folder}",
        "upstreams": {"tasks": {"bind": "127.0.0.1:0", "discover": {"service": "tasks"}}},
        **more,
    }


class Asking(threading.Thread):
    """A request under way; ``answer`` is (status, headers, body) in the end."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.answer: tuple[int, dict[str, str], bytes] = (0, {}, b"")
        self.start()

    def run(self) -> None:
        self.answer = ask(self.url)

    def done(self) -> tuple[int, dict[str, str], bytes]:
        self.join(60)
        assert not self.is_alive()
        return self.answer


def ask(url: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=60) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()
    except OSError as error:
        return 0, {}, str(error).encode()


def active(sidecar: Sidecar, direction: str = "inbound") -> float:
    page = str(get(f"{sidecar.admin}/metrics")[1])
    lines = [line for line in page.splitlines() if line.startswith(f'sidecar_requests_active{{direction="{direction}"')]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def records(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.json"))


def messages(sidecar: Sidecar) -> list[str]:
    return [json.loads(line)["msg"] for line in sidecar.output().splitlines() if line.startswith("{")]


def registered(folder: Path, count: int) -> Callable[[], bool]:
    return lambda: len(records(folder)) == count


@pytest.fixture(scope="module", autouse=True)
def without_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A sidecar whose registry is down, from the beginning of this module, so that there is less to wait for."""
    registry, admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
    sidecar = Sidecar(tmp_path_factory.mktemp("without-registry"), {
        "service": {"name": "web"}, "registry": f"consul://{registry}", "admin": {"bind": admin},
        "upstreams": {"tasks": {"bind": "127.0.0.1:0", "discover": {"service": "tasks"}}},
    })  # fmt: skip
    with ending(sidecar):
        wait_for(lambda: get(f"http://{admin}/ready") == (503, {"ready": False, "phase": "starting"}), "starting")
        yield sidecar


def test_it_is_ready_soon_and_says_so(tmp_path: Path) -> None:
    app = App(tmp_path, "app")
    with ending(app) as processes:
        app.ready()
        sidecar = Sidecar(
            tmp_path, _service(app, upstreams={"x": {"bind": "127.0.0.1:0", "endpoints": ["127.0.0.1:9"]}})
        )
        processes.append(sidecar)
        sidecar.ready()
        assert sidecar.seconds_to_ready < 20
        assert get(f"{sidecar.admin}/ready") == (200, {"ready": True, "phase": "ready"})
        assert get(f"http://127.0.0.1:{sidecar.port('tasks')}/who")[1]["name"] == "app"
        assert sidecar.terminate() == 0
        assert messages(sidecar)[-1] == "stopped"
        assert sidecar.output().count("\n") == len(messages(sidecar))  # every line is JSON, no traceback among them


def test_sigterm_lets_what_is_under_way_finish(tmp_path: Path) -> None:
    mesh = tmp_path / "mesh"
    app = App(tmp_path, "app")
    with ending(app) as processes:
        app.ready()
        sidecar = Sidecar(tmp_path, _service(app, registry=f"directory://{mesh}"))
        processes.append(sidecar)
        sidecar.ready()
        wait_for(registered(mesh, 1), "registered")
        inbound = f"http://127.0.0.1:{sidecar.port('tasks')}"
        slow = Asking(f"{inbound}/slow/1500")
        wait_for(lambda: active(sidecar) == 1, "the slow request is under way")
        sidecar.popen.send_signal(signal.SIGTERM)
        wait_for(lambda: ask(f"{inbound}/who")[0] == 503, "new work is refused")
        assert records(mesh) == []  # others were told first
        status, headers, body = ask(f"{inbound}/who")
        assert (status, headers["x-sidecar-error"]) == (503, "draining")
        assert json.loads(body)["error"] == "draining"
        assert get(f"{sidecar.admin}/ready") == (503, {"ready": False, "phase": "draining"})
        assert slow.done()[0] == 200
        assert sidecar.popen.wait(60) == 0
        assert records(mesh) == []


def test_outbound_goes_on_while_inbound_drains(tmp_path: Path) -> None:
    app = App(tmp_path, "app")
    with ending(app) as processes:
        app.ready()
        sidecar = Sidecar(
            tmp_path,
            _service(app, upstreams={"next": {"bind": "127.0.0.1:0", "endpoints": [f"127.0.0.1:{app.port}"]}}),
        )
        processes.append(sidecar)
        sidecar.ready()
        slow = Asking(f"http://127.0.0.1:{sidecar.port('tasks')}/slow/1000")
        wait_for(lambda: active(sidecar) == 1, "the slow request is under way")
        sidecar.popen.send_signal(signal.SIGTERM)
        wait_for(lambda: get(f"{sidecar.admin}/ready")[0] == 503, "draining")
        assert get(f"http://127.0.0.1:{sidecar.port('next')}/who")[1]["name"] == "app"
        assert slow.done()[0] == 200
        assert sidecar.popen.wait(60) == 0


def test_the_drain_timeout_cuts_what_is_left(tmp_path: Path) -> None:
    app = App(tmp_path, "app")
    with ending(app) as processes:
        app.ready()
        sidecar = Sidecar(tmp_path, _service(app, drain={"timeout": "300ms"}))
        processes.append(sidecar)
        sidecar.ready()
        slow = Asking(f"http://127.0.0.1:{sidecar.port('tasks')}/slow/100000")
        wait_for(lambda: active(sidecar) == 1, "the slow request is under way")
        began = time.monotonic()
        assert sidecar.terminate() == 0
        assert 0.3 <= time.monotonic() - began < 20
        assert slow.done()[0] == 0
        assert "the drain timeout is over; cutting what is left" in messages(sidecar)


def test_a_second_sigterm_stops_at_once(tmp_path: Path) -> None:
    app = App(tmp_path, "app")
    with ending(app) as processes:
        app.ready()
        sidecar = Sidecar(tmp_path, _service(app))
        processes.append(sidecar)
        sidecar.ready()
        slow = Asking(f"http://127.0.0.1:{sidecar.port('tasks')}/slow/100000")
        wait_for(lambda: active(sidecar) == 1, "the slow request is under way")
        sidecar.popen.send_signal(signal.SIGTERM)
        wait_for(lambda: get(f"{sidecar.admin}/ready")[0] == 503, "draining")
        began = time.monotonic()
        assert sidecar.terminate() == 0
        assert time.monotonic() - began < 20
        assert slow.done()[0] == 0
        assert "Traceback" not in sidecar.output()


def test_drain_can_be_asked_for_over_the_admin_api(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path, {"service": {"name": "web"}})
    with ending(sidecar):
        sidecar.ready()
        status, _, body = ask(f"{sidecar.admin}/drain", "POST")
        assert (status, json.loads(body)) == (202, {"phase": "draining"})
        assert sidecar.popen.wait(60) == 0


def test_sigterm_during_the_start_ends_it(tmp_path: Path) -> None:
    admin = free_port()
    sidecar = Sidecar(tmp_path, {
        "service": {"name": "web"}, "registry": f"consul://127.0.0.1:{free_port()}",
        "admin": {"bind": f"127.0.0.1:{admin}"},
        "upstreams": {"tasks": {"bind": "127.0.0.1:0", "discover": {"service": "tasks"}}},
    })  # fmt: skip
    with ending(sidecar):
        wait_for(lambda: get(f"http://127.0.0.1:{admin}/ready")[0] == 503, "starting")
        began = time.monotonic()
        assert sidecar.terminate() == 0
        assert time.monotonic() - began < 20
        assert "ready" not in messages(sidecar)
        assert "Traceback" not in sidecar.output()


def test_a_drain_asked_for_during_the_start_comes_next(tmp_path: Path) -> None:
    admin = free_port()
    sidecar = Sidecar(tmp_path, {
        "service": {"name": "web"}, "registry": f"consul://127.0.0.1:{free_port()}",
        "admin": {"bind": f"127.0.0.1:{admin}"},
        "upstreams": {"tasks": {"bind": "127.0.0.1:0", "discover": {"service": "tasks"}}},
    })  # fmt: skip
    with ending(sidecar):
        url = f"http://127.0.0.1:{admin}"
        wait_for(lambda: get(f"{url}/ready")[0] == 503, "starting")
        assert json.loads(ask(f"{url}/drain", "POST")[2]) == {"phase": "draining"}
        assert sidecar.popen.wait(60) == 0


def _reloaded(sidecar: Sidecar, config: dict[str, Any]) -> None:
    config = {"admin": {"bind": "127.0.0.1:0"}, **config}
    sidecar.file.write_text(yaml.safe_dump(config))
    before = messages(sidecar).count("reloaded")
    sidecar.popen.send_signal(signal.SIGHUP)
    wait_for(lambda: messages(sidecar).count("reloaded") > before, "reloaded")


def test_sighup_reloads(tmp_path: Path) -> None:
    app = App(tmp_path, "app")
    with ending(app) as processes:
        app.ready()
        config = _service(app)
        sidecar = Sidecar(tmp_path, config)
        processes.append(sidecar)
        sidecar.ready()
        url = f"http://127.0.0.1:{sidecar.port('tasks')}/who"
        assert ask(url)[0] == 200
        limited = {**config, "inbound": {**config["inbound"], "rate_limit": {"rate": "1/m", "burst": 1}}}
        _reloaded(sidecar, limited)
        assert ask(url)[0] == 200
        assert ask(url)[0] == 429
        sidecar.file.write_text("service: {nmae: tasks}")
        sidecar.popen.send_signal(signal.SIGHUP)
        wait_for(lambda: "not reloaded, nothing has changed" in sidecar.output(), "it says why not")
        assert ask(url)[0] == 429
        _reloaded(sidecar, config)
        assert ask(url)[0] == 200


def test_two_sidecars_find_each_other_and_one_that_was_killed_is_forgotten(tmp_path: Path) -> None:
    mesh = tmp_path / "mesh"
    apps = [App(tmp_path, f"app-{n}") for n in range(2)]
    with ending(*apps) as processes:
        for app in apps:
            app.ready()
        sidecars = [Sidecar(tmp_path, _service(a, registry=f"directory://{mesh}"), f"of-{a.name}") for a in apps]
        caller = Sidecar(tmp_path, _caller(mesh), "caller")
        processes += [*sidecars, caller]
        for sidecar in (*sidecars, caller):
            sidecar.ready()

        def endpoints() -> int:
            return len(get(f"{caller.admin}/upstreams/tasks")[1]["endpoints"])

        wait_for(lambda: endpoints() == 2, "both are found")
        url = f"http://127.0.0.1:{caller.port('tasks')}/who"
        assert {get(url)[1]["name"] for _ in range(8)} == {"app-0", "app-1"}
        sidecars[0].kill()
        assert {get(url)[0] for _ in range(8)} == {200}  # a dead instance costs nobody anything
        wait_for(lambda: endpoints() == 1, "the killed one is stale")
        assert len(records(mesh)) == 2  # its file is still there
        assert {get(url)[1]["name"] for _ in range(4)} == {"app-1"}
        assert sidecars[1].terminate() == 0
        assert len(records(mesh)) == 1
        wait_for(lambda: endpoints() == 0, "the stopped one is gone")
        assert caller.terminate() == 0


def test_nobody_is_sent_to_an_app_that_is_not_well(tmp_path: Path) -> None:
    mesh = tmp_path / "mesh"
    app = App(tmp_path, "app")
    with ending(app) as processes:
        app.ready()
        caller = Sidecar(tmp_path, _caller(mesh), "caller")
        app.kill()
        sidecar = Sidecar(tmp_path, _service(app, registry=f"directory://{mesh}"))
        processes += [caller, sidecar]
        caller.ready()
        sidecar.ready()
        wait_for(lambda: get(f"{sidecar.admin}/health")[0] == 503, "the check has failed")
        assert get(f"{caller.admin}/upstreams/tasks")[1]["endpoints"] == []
        again = App(tmp_path, "app", app.port)
        processes.append(again)
        again.ready()
        wait_for(lambda: get(f"{caller.admin}/upstreams/tasks")[1]["endpoints"], "it is found once it is well")
        assert get(f"{sidecar.admin}/health/tasks")[0] == 200


def _run(folder: Path, **options: Any) -> tuple[subprocess.Popen[bytes], int]:
    """``sidecar run`` on a file with a known admin port."""
    admin = free_port()
    file = folder / "plain.yaml"
    file.write_text(yaml.safe_dump({
        "service": {"name": "web"}, "admin": {"bind": f"127.0.0.1:{admin}"}, "log": {"access": "all"},
        "upstreams": {"gone": {"bind": "127.0.0.1:0", "endpoints": ["127.0.0.1:9"]}},
    }))  # fmt: skip
    command = [sys.executable, "-m", "sidecar", "run", str(file)]
    process = subprocess.Popen(options.pop("command", lambda given: given)(command), cwd=folder, **options)
    return process, admin


def _ended(process: subprocess.Popen[bytes], admin: int) -> int:
    """The exit code after a while of traffic and SIGTERM."""
    try:
        wait_for(lambda: get(f"http://127.0.0.1:{admin}/ready")[0] == 200, "ready")
        upstream = get(f"http://127.0.0.1:{admin}/upstreams/gone")[1]
        assert upstream["name"] == "gone"
        for _ in range(5):
            assert ask(f"http://127.0.0.1:{admin}/reload", "POST")[0] == 200  # logs a line each
        process.send_signal(signal.SIGTERM)
        return process.wait(60)
    finally:
        process.kill()
        process.wait(60)


def test_closed_standard_files_are_survived(tmp_path: Path) -> None:
    def closed(command: list[str]) -> list[str]:
        return ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]

    assert _ended(*_run(tmp_path, command=closed)) == 0


def test_a_reader_of_the_log_that_went_away_is_survived(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process, admin = _run(tmp_path, stdout=writing, stderr=writing)
    os.close(writing)
    assert _ended(process, admin) == 0


def test_a_log_that_nobody_reads_does_not_hold_anything_up(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:  # fill it, so that the first line already blocks
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    process, admin = _run(tmp_path, stdout=writing, stderr=writing)
    os.close(writing)
    try:
        assert _ended(process, admin) == 0
    finally:
        os.close(reading)


def test_ports_are_free_again_after_the_end(tmp_path: Path) -> None:
    port, admin = free_port(), free_port()
    config = {
        "service": {"name": "web"}, "admin": {"bind": f"127.0.0.1:{admin}"},
        "upstreams": {"x": {"bind": f"127.0.0.1:{port}", "endpoints": ["127.0.0.1:9"]}},
    }  # fmt: skip
    for _ in range(2):
        sidecar = Sidecar(tmp_path, config)
        with ending(sidecar):
            sidecar.ready()
            with socket.create_connection(("127.0.0.1", port), 5):  # a client that stays connected
                assert sidecar.terminate() == 0
        sidecar.log.unlink()


def test_a_registry_that_is_down_holds_up_readiness_for_its_grace_only(without_registry: Sidecar) -> None:
    sidecar = without_registry.ready()
    assert 4.9 < sidecar.seconds_to_ready < 30
    assert get(f"{sidecar.admin}/ready")[0] == 200
    status, headers, _ = ask(f"http://127.0.0.1:{sidecar.port('tasks')}/x")  # has waited for longer
    assert (status, headers["x-sidecar-error"]) == (503, "no_endpoints")
    assert "sidecar_registry_up 0.0" in get(f"{sidecar.admin}/metrics")[1]
    assert sidecar.terminate() == 0
