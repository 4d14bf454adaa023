"""A real Prometheus, and promtool, for tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any

import yaml

from support.processes import ROOT, Process, free_port, get, missing, wait_for

RULES = ROOT / "deploy" / "prometheus" / "recording.yml"


def binary(name: str) -> str:
    """``prometheus`` or ``promtool``."""
    return shutil.which(name) or missing(f"there is no {name}: install the package prometheus")


def promtool(*arguments: str) -> str:
    """What it says; fails when it finds something wrong."""
    ran = subprocess.run([binary("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=180)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


class Prometheus(Process):
    """Scrapes these addresses once a second, as the job ``sidecars``, with our recording rules; keeps exemplars."""

    def __init__(self, folder: Path, *targets: str) -> None:
        self.port = free_port()
        config = folder / "prometheus.yml"
        config.write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(RULES)],
                    "scrape_configs": [{"job_name": "sidecars", "static_configs": [{"targets": list(targets)}]}],
                }
            )
        )
        arguments = [
            binary("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{self.port}", "--enable-feature=exemplar-storage",
        ]  # fmt: skip
        super().__init__(arguments, folder / "prometheus.log")

    def ready(self) -> Prometheus:
        wait_for(
            lambda: get(f"http://127.0.0.1:{self.port}/-/ready")[0] == 200, lambda: f"Prometheus:\n{self.output()}"
        )
        return self

    def ask(self, path: str, **query: str) -> Any:
        """The data of an answer of its API."""
        status, found = get(f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}")
        assert status == 200, found
        assert found["status"] == "success", json.dumps(found)
        return found["data"]

    def query(self, expression: str) -> dict[frozenset[tuple[str, str]], float]:
        """The values now, by their labels without the name."""
        return {
            frozenset((name, value) for name, value in it["metric"].items() if name != "__name__"): float(
                it["value"][1]
            )
            for it in self.ask("query", query=expression)["result"]
        }
