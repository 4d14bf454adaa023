"""The image, the compose file and the package, checked as far as that goes without a container engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config.load import load
from sidecar.config.schema import Config

ROOT = Path(__file__).resolve().parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.sidecars.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
APPS = ["clock", "greeter"]
CONFIG_PATH = "/etc/sidecar/sidecar.yaml"


def mounts(service: str) -> dict[str, Path]:
    """Target → source of the bind mounts."""
    parts = [volume.split(":") for volume in SERVICES[service].get("volumes", [])]
    return {target: ROOT / source for source, target, *_ in parts if source.startswith(".")}


def config_of(app: str) -> Config:
    """The configuration that the app's sidecar gets, read with the environment that it gets by default."""
    environment = {
        name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
        for name, value in SERVICES[f"{app}-sidecar"].get("environment", {}).items()
    }
    return load(mounts(f"{app}-sidecar")[CONFIG_PATH], environment)


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])


def test_every_app_has_a_sidecar_and_no_sidecar_stands_alone() -> None:
    three = (f"{app}{part}" for app in APPS for part in ("", "-pod", "-sidecar"))
    assert sorted(SERVICES) == sorted(["consul", *three])


@pytest.mark.parametrize("app", APPS)
class TestPair:
    def test_they_share_the_network_namespace_of_a_pod_that_stays(self, app: str) -> None:
        for name in (app, f"{app}-sidecar"):
            service = SERVICES[name]
            assert service["network_mode"] == f"service:{app}-pod"
            # Docker refuses both beside network_mode.
            assert "ports" not in service
            assert "networks" not in service
            assert service["depends_on"][f"{app}-pod"]["restart"] is True, "a new pod has a new namespace"
        assert SERVICES[f"{app}-sidecar"]["depends_on"]["consul"]["condition"] == "service_healthy"
        assert app not in SERVICES[f"{app}-sidecar"]["depends_on"], "the sidecar outlives its app"
        pod = SERVICES[f"{app}-pod"]
        assert pod["command"] == ["sleep", "infinity"]
        assert pod["networks"] == ["mesh"]

    def test_all_are_locked_down(self, app: str) -> None:
        for name in (app, f"{app}-sidecar", f"{app}-pod"):
            service = SERVICES[name]
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]
            assert service["user"].split(":")[0] not in ("0", "root")
            assert name.endswith("-pod") or service["healthcheck"]["test"][0] == "CMD"
            assert not any(key in service for key in ("privileged", "cap_add", "pid", "ipc"))

    def test_what_is_mounted_exists_and_is_read_only(self, app: str) -> None:
        for name in (app, f"{app}-sidecar"):
            assert all(volume.endswith(":ro") for volume in SERVICES[name]["volumes"])
            assert all(source.exists() for source in mounts(name).values())

    def test_the_configuration_is_valid_and_fits_the_service(self, app: str) -> None:
        config = config_of(app)
        assert config.service.name == app
        assert config.registry.kind == "consul"
        assert config.registry.address is not None
        assert config.registry.address.host in SERVICES
        _, script, port = SERVICES[app]["command"]
        assert (ROOT / "examples" / Path(script).name).is_file()
        assert config.service.app is not None
        assert str(config.service.app) == f"127.0.0.1:{port}"
        assert config.admin.bind.host == "127.0.0.1"
        assert config.probes is not None
        assert str(config.probes.bind) == "0.0.0.0:15020"

    def test_only_the_sidecars_port_is_published_and_only_on_this_host(self, app: str) -> None:
        inbound = config_of(app).inbound
        assert inbound is not None
        for published in SERVICES[f"{app}-pod"].get("ports", []):
            address, _, port = published.split(":")
            assert address == "127.0.0.1"
            assert int(port) == inbound.bind.port

    def test_what_is_discovered_is_there(self, app: str) -> None:
        for upstream in config_of(app).upstreams.values():
            assert upstream.discover is not None
            assert upstream.discover.service in APPS
            assert upstream.bind.host == "127.0.0.1"

    def test_draining_ends_before_docker_kills(self, app: str) -> None:
        assert seconds(SERVICES[f"{app}-sidecar"]["stop_grace_period"]) > config_of(app).drain.timeout


def test_the_greeter_dials_the_port_of_its_upstream() -> None:
    upstream = config_of("greeter").upstreams["clock"]
    assert SERVICES["greeter"]["environment"]["CLOCK_URL"] == f"http://{upstream.bind}"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined."""
    text = (ROOT / "images" / "Dockerfile.sidecar").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())]


def test_the_image_is_built_in_stages_and_runs_as_an_ordinary_user() -> None:
    found = instructions()
    stages = [i for i, (word, _) in enumerate(found) if word == "FROM"]
    assert len(stages) == 2
    last = dict(found[stages[-1] :])
    assert int(last["USER"].split(":")[0]) > 0
    assert last["ENTRYPOINT"] == '["sidecar"]'
    assert last["CMD"] == f'["run", "{CONFIG_PATH}"]'
    assert '"sidecar", "status"' in last["HEALTHCHECK"]
    assert "RUN" not in last, "the last stage only copies, so no build tool stays in it"


def test_what_the_image_copies_reaches_the_build() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def test_the_package_holds_everything_and_the_command(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "sidecar", source / "sidecar", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [*build, "--disable-pip-version-check", "--wheel-dir", tmp_path, source], check=True, timeout=100, cwd=tmp_path
    )
    (wheel,) = tmp_path.glob("service_sidecar-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        scripts = ConfigParser()
        scripts.read_string(archive.read(entry_points).decode())
    assert dict(scripts["console_scripts"]) == {"sidecar": "sidecar.cli.main:main"}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "sidecar").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"sidecar"}
