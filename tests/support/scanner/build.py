"""Builds the scanner's sources as tests want them: once for each kind and state of the sources, in ``.cache``."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ROOT / "sidecar" / "http" / "h1"
AMQP = ROOT / "sidecar" / "amqp" / "wire"
HERE = Path(__file__).parent
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wconversion", "-Wvla")


def compiler(name: str = "gcc") -> str:
    """That compiler. Without it the test is skipped; in continuous integration it fails."""
    found = shutil.which(name)
    if found is None:
        missing(f"there is no {name}")
    return found


def missing(what: str) -> NoReturn:
    """Skip the test; in continuous integration, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(f"{what}: the head scanner is not built, nor tested")


def build(name: str, *sources: Path, flags: tuple[str, ...] = (), cc: str = "gcc") -> Path:
    """Compile the sources into a file of that name, unless that was done before."""
    command = [compiler(cc), *STRICT, *flags, f"-I{SOURCES}", f"-I{AMQP}"]
    inputs = sorted({*sources, SOURCES / "scan.h", AMQP / "runs.h"})
    digest = hashlib.sha256(repr(command).encode() + b"".join(file.read_bytes() for file in inputs)).hexdigest()[:16]
    folder = ROOT / ".cache" / "scanner"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{digest}-{name}"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            made = path.with_suffix(".new")
            done = subprocess.run([*command, "-o", made, *map(str, sources)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            made.rename(path)
    return path


def extension(cc: str = "gcc", folder: Path = SOURCES, name: str = "scan") -> ModuleType:
    """The extension module ``_name``, as setup.py builds it, but for warnings, which are errors here."""
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").exists():
        missing(f"there is no Python.h in {include}")
    path = build(
        f"{cc}-{name}.so",
        folder / f"_{name}.c",
        folder / f"{name}.c",
        flags=("-O2", "-fPIC", "-shared", "-DPy_LIMITED_API=0x030B0000", f"-I{include}"),
        cc=cc,
    )
    return load(path, f"_{name}")


def load(path: Path, name: str = "_scan") -> ModuleType:
    """The extension module of that name in that file."""
    loader = importlib.machinery.ExtensionFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
