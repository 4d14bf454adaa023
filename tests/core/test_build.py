"""Which build runs is told by the files that are imported."""

from __future__ import annotations

import os
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec

import pytest

from sidecar.core import build as module
from sidecar.core.build import COMPILED, INTERPRETED, build, scanner
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


@pytest.mark.parametrize(
    ("built", "wanted", "said"), [(True, "", "c"), (True, "python", "python"), (False, "", "python")]
)
def test_the_scanner_goes_by_what_is_there(
    built: bool, wanted: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: ModuleSpec(name, None) if built else None)
    monkeypatch.setenv("SIDECAR_SCANNER", wanted)
    assert scanner.__wrapped__() == said
