"""Tests that need a Docker engine: `make test-docker` runs them, `make test` does not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.docker import SIDECAR, Engine, build, engine
from support.processes import ROOT

collect_ignore_glob = [] if os.environ.get("SIDECAR_DOCKER") == "1" else ["test_*.py"]


@pytest.fixture(scope="session")
def docker() -> Iterator[Engine]:
    """An engine with the sidecar's image in it (COMPILE=0 in the environment: not compiled, which is minutes less)."""
    with engine() as found:
        compiling = os.environ.get("COMPILE", "1")
        seconds = build(
            found, ROOT / "images" / "Dockerfile.sidecar", SIDECAR, ROOT, "--build-arg", f"COMPILE={compiling}"
        )
        print(f"\nthe image was built in {seconds:.0f} s")
        yield found
