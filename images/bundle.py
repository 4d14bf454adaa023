"""Put Python, the sidecar and all that they load into one folder, which runs in any image of the same processor.

    python bundle.py FOLDER [PROGRAM ...]

Programs of the system go with them. Run it with the Python of a virtual environment in which the sidecar is installed;
it needs ldd, patchelf and strip. The folder has its own C library and dynamic loader, so the image that it is copied
into needs no Python, and a C library of any kind or none. Its path has to stay what it was: the kernel wants loaders
and interpreters by their whole paths.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

#: What of the standard library and of packages no sidecar needs.
LEFT_OUT: Final = (
    "__pycache__", "site-packages", "dist-packages", "EXTERNALLY-MANAGED", "test", "tests", "config-*", "distutils",
    "ensurepip", "idlelib", "lib2to3", "pydoc_data", "tkinter", "turtle*", "unittest", "venv", "pip", "pip-*",
    "setuptools", "setuptools-*", "pkg_resources", "_distutils_hack", "*.pth", "*.pyx", "*.pxd", "*.pyi", "*.c", "*.h",
    "_tkinter.*", "nis.*", "_dbm.*", "_gdbm.*", "readline.*", "_curses*", "ossaudiodev.*", "_test*", "_ctypes_test.*",
    "_xxtest*", "xxlimited*",
)  # fmt: skip
PYTHON: Final = f"python{sys.version_info.major}.{sys.version_info.minor}"
#: Without the environment's variables for Python and without what is installed for others: those are the app's.
COMMAND: Final = """#!{python} -IS
from sidecar.cli.main import main

raise SystemExit(main())
"""
#: Prints the libraries that are loaded then.
LOAD_ALL: Final = """
import importlib, pkgutil, sys
import sidecar
for name in (*sys.argv[1:], *(it.name for it in pkgutil.walk_packages(sidecar.__path__, "sidecar."))):
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(*{line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}, sep="\\n")
"""


def main(folder: Path, others: Sequence[str]) -> None:
    binaries, libraries = folder / "bin", folder / "lib"
    packages = libraries / PYTHON
    binaries.mkdir(parents=True)
    # Packages go beside the standard library: found without looking for a place of their own at each start.
    for kind in ("stdlib", "purelib"):
        left_out = shutil.ignore_patterns(*LEFT_OUT)
        shutil.copytree(sysconfig.get_path(kind), packages, ignore=left_out, dirs_exist_ok=True)
    programs = [Path(shutil.copy(it, binaries)) for it in (Path(sys.executable).resolve(), *map(Path, others))]
    modules = [it for it in packages.rglob("*.so") if ".cpython-" in it.name]
    loader = gather([*programs, *packages.rglob("*.so*")], libraries)
    for file in (*packages.rglob("*.so*"), *libraries.glob("lib*.so*"), *programs):
        slim(file, libraries)
    for program in programs:
        subprocess.run(["patchelf", "--set-interpreter", str(loader), str(program)], check=True)
    python = programs[0].rename(binaries / PYTHON)
    script = binaries / "sidecar"
    script.write_text(COMMAND.format(python=python))
    script.chmod(0o755)
    # No start may have to compile: who runs it cannot write here. Times of files are not looked at.
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(packages, quiet=1, workers=0, invalidation_mode=unchecked, stripdir=folder):
        raise SystemExit("bundle: not everything could be compiled")
    check(python, folder, (name_of(it, packages) for it in modules))


def gather(files: Iterable[Path], libraries: Path) -> Path:
    """Copy the shared libraries that ``files`` need; the loader's path in the folder."""
    loader: Path | None = None
    for file in files:
        for path in needed(file):
            if not path.is_relative_to(libraries):
                copy = libraries / path.name
                if not copy.exists():
                    shutil.copy(path, copy)
                if path.name.startswith("ld-"):
                    loader = copy
    if loader is None:
        raise SystemExit("bundle: this Python has no dynamic loader")
    return loader


def needed(file: Path) -> Iterator[Path]:
    """The shared libraries that ``file`` loads, where the system has them."""
    listed = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        found = re.search(r"(/\S+) \(0x", line)
        if found:
            yield Path(os.path.normpath(found[1]))
        elif "not found" in line:
            raise SystemExit(f"bundle: {file}: {line.strip()}")


def slim(file: Path, libraries: Path) -> None:
    """Take what is for debuggers out of ``file``, and have it look for its libraries in the folder."""
    subprocess.run(["strip", "--strip-unneeded", str(file)], check=True)
    said = subprocess.run(
        ["patchelf", "--print-rpath", str(file)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    own = [it for it in said.strip().split(":") if it.startswith("$ORIGIN")]
    # Those without a path of their own look where the program's says.
    if said.strip() or ".so" not in file.name:
        path = ":".join([*own, str(libraries)])
        subprocess.run(["patchelf", "--force-rpath", "--set-rpath", path, str(file)], check=True)


def name_of(file: Path, packages: Path) -> str:
    return ".".join(file.relative_to(packages).with_name(file.name.partition(".")[0]).parts).removeprefix(
        "lib-dynload."
    )


def check(python: Path, folder: Path, modules: Iterable[str]) -> None:
    """Load every compiled module there is; nothing may come from outside the folder."""
    ran = subprocess.run([python, "-IS", "-c", LOAD_ALL, *modules], stdout=subprocess.PIPE, text=True, check=True)
    foreign = [it for it in ran.stdout.split() if not Path(it).is_relative_to(folder)]
    if foreign:
        raise SystemExit(f"bundle: loaded from elsewhere: {', '.join(foreign)}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]).absolute(), sys.argv[2:])
