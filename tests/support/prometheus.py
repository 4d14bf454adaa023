"""A real Prometheus, and promtool, for tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any, Self

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


def with_consul() -> str:
    """A ``prometheus`` that finds targets in Consul: ``$SIDECAR_PROMETHEUS``, or what ``scripts/ensure-prometheus``
    fetched."""
    cached = str(ROOT / ".cache" / "prometheus" / "prometheus")
    for candidate in (os.environ.get("SIDECAR_PROMETHEUS"), cached):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    missing("there is no prometheus with consul_sd: run scripts/ensure-prometheus, or name one in SIDECAR_PROMETHEUS")


class _Server(Process):
    """A Prometheus."""

    def __init__(self, program: str, config: Path, *arguments: str) -> None:
        self.port = free_port()
        folder = config.parent
        data = folder / f"{config.stem}.data"
        listen = f"--web.listen-address=127.0.0.1:{self.port}"
        command = [program, f"--config.file={config}", f"--storage.tsdb.path={data}", listen, *arguments]
        super().__init__(command, folder / f"{config.stem}.log")

    def ready(self) -> Self:
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


class Prometheus(_Server):
    """Scrapes these addresses once a second, as the job ``sidecars``, with our recording rules; keeps exemplars."""

    def __init__(self, folder: Path, *targets: str) -> None:
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
        super().__init__(binary("prometheus"), config, "--enable-feature=exemplar-storage")


class Shipped(_Server):
    """As ``deploy/prometheus`` says, with the Consul at that port, once a second. ``alertmanager``: the port of the one
    that is told of alerts, each thirty times as soon as it would be; 0: nobody is told."""

    def __init__(self, folder: Path, consul: int, alertmanager: int = 0) -> None:
        program = with_consul()
        given = yaml.safe_load((RULES.parent / "prometheus.yml").read_text())
        given["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        given["rule_files"] = [str(RULES.parent / name) for name in given["rule_files"]]
        if alertmanager:
            given["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager}"]
            given["rule_files"] = [_hurried(Path(name), folder) for name in given["rule_files"]]
        else:
            del given["alerting"]
        given["scrape_configs"][0]["consul_sd_configs"][0] |= {
            "server": f"127.0.0.1:{consul}",
            "refresh_interval": "1s",
        }
        config = folder / "shipped.yml"
        config.write_text(yaml.safe_dump(given))
        super().__init__(program, config)


def _hurried(rules: Path, folder: Path) -> str:
    """A copy of the rules whose alerts fire thirty times as soon."""
    groups = yaml.safe_load(rules.read_text())
    for rule in (rule for group in groups["groups"] for rule in group["rules"] if "for" in rule):
        rule["for"] = f"{_SECONDS[rule['for'][-1]] * int(rule['for'][:-1]) // 30}s"
    copy = folder / f"hurried-{rules.name}"
    copy.write_text(yaml.safe_dump(groups))
    return str(copy)


_SECONDS = {"s": 1, "m": 60}
