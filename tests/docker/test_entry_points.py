"""`sidecar exec` as the entry point of the apps' own images: they are killed, stopped, replaced and multiplied."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.docker import BASE, SECONDS, SIDECAR, Engine, Mesh, Project, build, mesh
from support.processes import ROOT, get, wait_for

HERE = Path(__file__).parent
ENTRY_POINTS = Project([HERE / "entry_points.yml"])


@pytest.fixture(scope="module")
def apps(docker: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    context = tmp_path_factory.mktemp("context")
    busybox = shutil.which("busybox")
    assert busybox is not None, "run scripts/ensure-docker"
    shutil.copy(busybox, context / "busybox")
    shutil.copy(ROOT / "examples" / "greeter.py", context)
    (context / "time.json").write_text('{"time": "now"}')
    (context / "broken").mkdir()
    (context / "broken" / "uvloop.py").write_text("raise ImportError('the app broke this')\n")
    for app in ("clock", "greeter"):
        build(docker, HERE / "images" / f"Dockerfile.{app}", f"sidecartest-{app}", context)
    with mesh(docker, ENTRY_POINTS) as found:
        yield found


@pytest.fixture
def url(apps: Mesh) -> str:
    url = apps.published("door", 8000)
    apps.well(url)
    return url


def clocks(apps: Mesh) -> set[str]:
    """Who answers for the clock, of 30 calls."""
    url = apps.published("door", 8001) + "/etc/hostname"
    found = [get(url, 10) for _ in range(30)]
    return {str(body).strip() for status, body in found if status == 200}


def test_apps_with_and_without_python_are_served(apps: Mesh, url: str) -> None:
    assert get(url) == (200, {"greeting": "Hello!", "time": "now"})


@pytest.mark.parametrize("app", ["clock", "greeter"])
def test_an_app_is_killed(apps: Mesh, url: str, app: str) -> None:
    """The app ends, its sidecar with it, and the engine starts both again."""
    first = apps.pid(app)
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    (program,) = (it for it in children if "sidecar" not in Path(f"/proc/{it}/comm").read_text())
    apps.measured(f"kill -9 of {app} in sidecar exec", lambda: os.kill(int(program), signal.SIGKILL), url)
    assert apps.pid(app) not in (0, first)


@pytest.mark.parametrize("app", ["clock", "greeter"])
def test_both_are_stopped_and_started(apps: Mesh, url: str, app: str) -> None:
    apps.compose("stop", app)
    assert apps.docker.inspect(apps.container(app))["State"]["ExitCode"] in (0, 143)
    apps.measured(f"start of {app} in sidecar exec", lambda: apps.compose("start", app), url)


@pytest.mark.parametrize("app", ["clock", "greeter"])
def test_both_are_made_anew(apps: Mesh, url: str, app: str) -> None:
    recreate = ("up", "--detach", "--force-recreate", "--no-deps", "--pull", "never", app)
    apps.measured(f"{app} in sidecar exec made anew", lambda: apps.compose(*recreate), url)


def test_each_app_scales_and_nobody_is_sent_to_one_that_is_gone(apps: Mesh, url: str) -> None:
    def scale(clocks: int, greeters: int) -> None:
        numbers = ("--scale", f"clock={clocks}", "--scale", f"greeter={greeters}")
        apps.compose("up", "--detach", "--no-recreate", "--pull", "never", *numbers)

    def endpoints(name: str) -> int:
        door = apps.container("door")
        lines = apps.docker.docker("exec", door, "sidecar", "status").splitlines()
        return sum(line.split()[0] == name and ":10080" in line for line in lines if line.strip())

    scale(3, 2)
    wait_for(lambda: (endpoints("clock"), endpoints("greeter")) == (3, 2), apps.logs, SECONDS)
    wait_for(lambda: len(clocks(apps)) == 3, apps.logs, SECONDS)
    apps.well(url)
    scale(1, 1)
    failed = [answer for answer in (get(url, 10) for _ in range(100)) if answer[0] != 200]
    assert failed == []
    assert (endpoints("clock"), endpoints("greeter")) == (1, 1)
    assert len(clocks(apps)) == 1


def test_nothing_is_built_on_but_what_the_engine_has(docker: Engine) -> None:
    tags = {
        it for it in docker.docker("images", "--format", "{{.Repository}}").split() if not it.startswith("sidecartest-")
    }
    assert tags - {"<none>"} <= {BASE.partition(":")[0], SIDECAR}
