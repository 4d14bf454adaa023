"""What says whether files for Docker Compose, Kubernetes and systemd are valid: the tools' own words."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.processes import ROOT, missing

FOLDER = ROOT / ".cache" / "deploy-tools"
#: Releases of Kubernetes: the first in which native sidecars are on by default, and one of the newest.
KUBERNETES = ("1.29", "1.37")


def compose(*files: Path, profiles: tuple[str, ...] = (), environment: dict[str, str] | None = None) -> dict[str, Any]:
    """What Docker Compose makes of these files; fails when it takes them for wrong. No engine is asked."""
    program = FOLDER / "docker-compose"
    if not os.access(program, os.X_OK):
        missing("there is no docker-compose: run scripts/ensure-deploy-tools")
    named = [word for file in files for word in ("-f", str(file))] + [w for it in profiles for w in ("--profile", it)]
    ran = subprocess.run(
        [str(program), *named, "config", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **(environment or {})},
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def kubernetes(folder: Path, *resources: dict[str, Any]) -> None:
    """Fails unless each release takes these resources, without a key that it does not know."""
    if not (FOLDER / "python").is_dir():
        missing("there are no schemas of Kubernetes: run scripts/ensure-deploy-tools")
    file = folder / "resources.yml"
    file.write_text("\n---\n".join(json.dumps(it) for it in resources))
    for release in KUBERNETES:
        ran = subprocess.run(
            [sys.executable, "-m", "kubernetes_validate", "-k", release, "--strict", str(file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(FOLDER / "python")},
        )
        said = ran.stdout + ran.stderr
        assert ran.returncode == 0, said
        assert said.count(f"against version {release}") == len(resources), said


def systemd(unit: Path) -> None:
    """Fails when systemd takes the unit for wrong, or does not know a key in it."""
    program = shutil.which("systemd-analyze") or missing("there is no systemd-analyze: install the package systemd")
    ran = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False, timeout=60)
    said = (ran.stdout + ran.stderr).strip()
    assert ran.returncode == 0, said
    assert unit.name not in said, said
