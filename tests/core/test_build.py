"""Which build runs is told by the files that are imported."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path

import pytest

from sidecar.amqp.wire.runs import cut
from sidecar.core import build as module
from sidecar.core.build import COMPILED, INTERPRETED, amqp_scanner, build, scanner
from sidecar.http.h1.scanner import scan_request


def test_it_is_the_one_that_is_tested() -> None:
    assert build() == (COMPILED if os.environ.get("SIDECAR_COMPILED") else INTERPRETED)


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("/lib/sidecar/core/ids.py", INTERPRETED),
        ("/lib/sidecar/core/ids.pyc", INTERPRETED),
        ("/lib/sidecar/core/ids" + EXTENSION_SUFFIXES[0], COMPILED),
    ],
)
def test_it_goes_by_the_file(origin: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: ModuleSpec(name, None, origin=origin))
    assert build.__wrapped__() == said


def test_it_is_the_scanner_that_reads() -> None:
    assert scanner() == ("python" if scan_request is None else "c")
    assert amqp_scanner() == ("python" if cut is None else "c")


@pytest.mark.parametrize(
    ("built", "wanted", "said"), [(True, "", "c"), (True, "python", "python"), (False, "", "python")]
)
def test_the_scanners_go_by_what_is_there(
    built: bool, wanted: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("http/h1/_scan", "amqp/wire/_runs"):
        path = tmp_path / (file + EXTENSION_SUFFIXES[0])
        path.parent.mkdir(parents=True)
        if built:
            path.touch()
    monkeypatch.setattr(module, "_chosen", {})
    monkeypatch.setattr(module, "_folders", [str(tmp_path)])
    monkeypatch.setenv("SIDECAR_SCANNER", wanted)
    module._language.cache_clear()
    try:
        assert (scanner(), amqp_scanner()) == (said, said)
    finally:
        module._language.cache_clear()


def test_one_from_an_older_source_is_not_said_to_read() -> None:
    """It lacks what this source calls, so that is done in Python."""
    code = """
import sys, types
for name in ("sidecar.http.h1._scan", "sidecar.amqp.wire._runs"):
    sys.modules[name] = types.ModuleType(name)
from sidecar.amqp.wire import runs
from sidecar.core import build
from sidecar.http.h1 import scanner
print(build.scanner(), build.amqp_scanner(), scanner.scan_request, runs.cut)
"""
    quiet = {name: value for name, value in os.environ.items() if name != "SIDECAR_SCANNER"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=quiet)
    assert done.stdout.split() == ["python", "python", "None", "None"]


def test_nothing_is_imported_for_that() -> None:
    code = "import sys; from sidecar.core import build; build.described(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"sidecar.amqp", "sidecar.http"} & set(done.stdout.split())
