"""What is in the image, and that it runs on a root that has nothing else."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import tarfile
from pathlib import Path

import pytest

from sidecar import __version__
from support.docker import SIDECAR, Engine
from support.fake_admin import fake_admin
from support.processes import Process, free_port, wait_for

USER = 10001
MEGABYTE = 1 << 20
#: What is there of the tools that built it, or for whoever got in.
UNWANTED = re.compile(
    r"(^|/)(ba|da|)sh$|(^|/)(pip|apt|apt-get|dpkg|gcc|cc|ld|as|strip|patchelf|perl|curl|wget|busybox)[\d.]*$"
    r"|/(tests?|pip|setuptools|wheel|mypy|mypyc|ensurepip|idlelib|include)/|\.(c|h|o|a|pyx|pyi|whl)$"
)


@pytest.fixture(scope="module")
def root(docker: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's files, and nothing else, as a folder."""
    folder = tmp_path_factory.mktemp("image")
    archive = folder / "image.tar"
    container = docker.docker("create", SIDECAR).strip()
    docker.docker("export", "-o", archive, container)
    docker.docker("rm", container)
    files = folder / "root"
    with tarfile.open(archive) as tar:
        tar.extractall(files, filter="fully_trusted")
    archive.unlink()
    for it in (folder, *folder.parents[:2]):
        it.chmod(0o755)  # the sidecar's user goes through them
    return files


def files(root: Path) -> list[str]:
    return [f"/{it.relative_to(root)}" for it in root.rglob("*") if it.is_file() and not it.is_symlink()]


def within(root: Path, *command: str) -> list[str]:
    """The command as the image's user on that root."""
    return ["chroot", f"--userspec={USER}:{USER}", str(root), *command]


def test_it_has_the_sidecar_and_nothing_to_build_or_break_in_with(root: Path) -> None:
    found = files(root)
    # The engine makes mount points of its own in each container.
    outside = {it for it in found if not it.startswith("/opt/sidecar/")}
    made = {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/.dockerenv", "/dev/console"}
    assert outside - made == {"/etc/passwd", "/etc/group", "/etc/ssl/certs/ca-certificates.crt"}
    programs = {it.name: it for it in (root / "opt/sidecar/bin").iterdir()}
    assert programs.keys() == {"python3.11", "sidecar", "sidecar-probe", "sleep"}
    assert programs["sidecar-probe"].readlink() == Path("../probe/sidecar-probe")  # a folder that volumes share
    assert [it.name for it in (root / "opt/sidecar/probe").iterdir()] == ["sidecar-probe"]
    assert [it for it in found if UNWANTED.search(it)] == []


def test_it_is_small(root: Path, docker: Engine) -> None:
    size = docker.inspect(SIDECAR)["Size"]
    by_folder = sorted(
        ((sum(it.stat().st_size for it in folder.rglob("*") if it.is_file()), folder.name)
         for folder in (root / "opt/sidecar/lib/python3.11").iterdir() if folder.is_dir()), reverse=True,
    )  # fmt: skip
    print(
        f"\n{size / MEGABYTE:.0f} MB; the largest:", [f"{name} {count / MEGABYTE:.1f}" for count, name in by_folder[:6]]
    )
    assert size < 100 * MEGABYTE


def test_nobody_but_root_can_change_it_and_no_start_has_to_compile(root: Path) -> None:
    for path in (root / "opt").rglob("*"):
        status = path.lstat()
        assert status.st_uid == 0, path
        assert path.is_symlink() or not status.st_mode & 0o022, path
        assert not status.st_mode & 0o6000, path
        if path.suffix == ".py":
            assert (path.parent / "__pycache__" / f"{path.stem}.cpython-311.pyc").is_file(), path


def test_how_it_is_run(docker: Engine) -> None:
    config = docker.inspect(SIDECAR)["Config"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"] == ["sidecar"]
    assert config["Cmd"] == ["run"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "sidecar-probe"]
    assert config["Labels"]["org.opencontainers.image.version"] == __version__


def test_it_runs_on_a_root_that_has_nothing_else(root: Path, tmp_path: Path) -> None:
    admin = free_port()
    environment = {
        "SIDECAR_CONFIG": f"service: {{name: shop}}\nadmin: {{bind: '127.0.0.1:{admin}'}}\n",
        "SIDECAR_ADMIN": f"127.0.0.1:{admin}",
        "PATH": f"{os.environ['PATH']}:/opt/sidecar/bin",
    }
    sidecar = Process(within(root, "sidecar", "run"), tmp_path / "log", environment)
    try:
        probe = within(root, "sidecar-probe")
        wait_for(lambda: subprocess.run(probe, env=environment, check=False).returncode == 0, sidecar.output)
        status = within(root, "sidecar", "status")
        shown = subprocess.run(status, env=environment, capture_output=True, text=True, check=True).stdout
        assert "phase     ready" in shown
        maps = Path(f"/proc/{sidecar.pid}/maps").read_text()
        libraries = {line.split()[-1] for line in maps.splitlines() if ".so" in line}
        assert libraries
        assert all(it.startswith(f"{root}/opt/sidecar/lib/") for it in libraries), libraries
        assert sidecar.terminate() == 0
    finally:
        sidecar.kill()


def test_a_probe_costs_next_to_nothing(root: Path) -> None:
    """The shared machine's figure is printed; the bound is far above it."""
    with fake_admin({"ready": (200, {})}) as url:
        spent = []
        for command in (within(root, "/opt/sidecar/bin/sleep", "0"), within(root, "/opt/sidecar/bin/sidecar-probe")):
            for _ in range(20):
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run(command, env={**os.environ, "SIDECAR_ADMIN": url}, check=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                spent.append(1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    bare, probe = sorted(spent[:20]), sorted(spent[20:])
    print(f"\nmedian of 20: sleep 0 takes {bare[10]:.1f} ms of CPU (chroot and start), the probe {probe[10]:.1f} ms")
    assert probe[0] < 20
