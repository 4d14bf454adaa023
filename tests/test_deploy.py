"""The package holds all that it has to."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from sidecar.cli.man_page import text as man_page

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.costly
def test_the_package_holds_everything_and_the_command(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "sidecar", source / "sidecar", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    pack = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", pack, tmp_path], check=True, timeout=100, cwd=source, capture_output=True)
    (sources,) = tmp_path.glob("service_sidecar-*.tar.gz")
    with tarfile.open(sources) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert packed >= {"pyproject.toml", "setup.py", "README.md", "LICENSE", "man/sidecar.1"}
    assert packed >= {f"sidecar/http/h1/{name}" for name in ("_scan.c", "scan.c", "scan.h")}
    assert packed >= {f"sidecar/amqp/wire/{name}" for name in ("_runs.c", "runs.c", "runs.h")}
    assert "sidecar/agent/_memory.c" in packed
    # Of what was packed, so that is known to build.
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [*build, "--disable-pip-version-check", "--wheel-dir", tmp_path, sources], check=True, timeout=100, cwd=tmp_path
    )
    (wheel,) = tmp_path.glob("service_sidecar-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        scripts = ConfigParser()
        scripts.read_string(archive.read(entry_points).decode())
        (manual,) = (
            archive.read(name).decode() for name in names if name.endswith(".data/data/share/man/man1/sidecar.1")
        )
    assert dict(scripts["console_scripts"]) == {"sidecar": "sidecar.cli.main:main"}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "sidecar").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".c", ".h", ".so")
    }
    assert wanted <= names
    assert manual == man_page()
    parts = {name.split("/")[0].rpartition(".")[2] for name in names}
    assert parts == {"sidecar", "dist-info", "data"}
