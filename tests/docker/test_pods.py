"""Apps and sidecars in pods: apps are killed, stopped and replaced, and callers are served again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.docker import SECONDS, Engine, Mesh, Project, mesh
from support.processes import ROOT, get, wait_for

PODS = Project([Path(__file__).with_name("pods.yml")])


@pytest.fixture(scope="module")
def pods(docker: Engine) -> Iterator[Mesh]:
    assert (ROOT / ".cache" / "consul" / "consul").is_file(), "run scripts/ensure-consul"
    with mesh(docker, PODS) as found:
        yield found


@pytest.fixture
def url(pods: Mesh) -> str:
    """The greeter's, through both sidecars; it is well before a test begins."""
    url = pods.published("greeter-pod", 10080)
    pods.well(url)
    return url


def test_the_health_check_follows_the_admin_address(pods: Mesh, url: str) -> None:
    for service in ("clock-sidecar", "greeter-sidecar"):
        container = pods.container(service)

        def healthy(container: str = container) -> bool:
            return bool(pods.docker.inspect(container)["State"]["Health"]["Status"] == "healthy")

        wait_for(healthy, pods.logs)


def test_a_sidecar_is_locked_down(pods: Mesh, url: str) -> None:
    status = Path(f"/proc/{pods.pid('greeter-sidecar')}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) == {"10001"}
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"


@pytest.mark.parametrize("app", ["clock", "greeter"])
def test_an_app_is_killed_and_its_engine_starts_it_again(pods: Mesh, url: str, app: str) -> None:
    killed = pods.pid(app)
    pods.measured(f"kill -9 of {app}", lambda: os.kill(killed, signal.SIGKILL), url)
    assert pods.pid(app) not in (0, killed)


@pytest.mark.parametrize("app", ["clock", "greeter"])
def test_a_sidecar_is_killed(pods: Mesh, url: str, app: str) -> None:
    killed = pods.pid(f"{app}-sidecar")
    pods.measured(f"kill -9 of {app}'s sidecar", lambda: os.kill(killed, signal.SIGKILL), url)
    assert pods.pid(f"{app}-sidecar") not in (0, killed)


@pytest.mark.parametrize("app", ["clock", "greeter"])
def test_an_app_is_stopped_and_started(pods: Mesh, url: str, app: str) -> None:
    pods.compose("stop", app)
    wait_for(lambda: get(url, 10)[0] in (502, 503, 504), pods.logs, SECONDS)
    pods.measured(f"start of {app}", lambda: pods.compose("start", app), url)


@pytest.mark.parametrize("app", ["clock", "greeter"])
def test_an_app_is_made_anew(pods: Mesh, url: str, app: str) -> None:
    before = pods.container(app)
    recreate = ("up", "--detach", "--force-recreate", "--no-deps", "--pull", "never", app)
    pods.measured(f"{app} made anew", lambda: pods.compose(*recreate), url)
    assert pods.container(app) != before


def test_all_are_made_anew(pods: Mesh, url: str) -> None:
    pods.compose("up", "--detach", "--force-recreate", "--pull", "never")
    pods.well(pods.published("greeter-pod", 10080))
