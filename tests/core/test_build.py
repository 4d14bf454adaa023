"""Which build runs is told by the files that are imported."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec

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
    ("older", "scanner_variable", "said"), [(False, "", "c"), (False, "python", "python"), (True, "", "python")]
)
def test_what_is_said_to_read_does(older: bool, scanner_variable: str, said: str) -> None:
    """An extension of an older source lacks what this one calls, so that is done in Python."""
    code = """
import sys, types
if sys.argv[1:]:
    for name in ("sidecar.http.h1._scan", "sidecar.amqp.wire._runs"):
        sys.modules[name] = types.ModuleType(name)
from sidecar.core import build
print(build.scanner(), build.amqp_scanner())
from sidecar.amqp.wire import runs
from sidecar.http.h1 import scanner
print(scanner.scan_request is None, runs.cut is None)
"""
    environment = {**os.environ, "SIDECAR_SCANNER": scanner_variable}
    command = [sys.executable, "-c", code, *(["older"] if older else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [said] * 2 + [str(said == "python")] * 2


def test_little_is_imported_for_that() -> None:
    code = "import sys; from sidecar.core import build; build.described(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"asyncio", "sidecar.amqp.relay", "sidecar.http.h1.head"} & set(done.stdout.split())
