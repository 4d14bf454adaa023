"""Alertmanager's configuration, by ``amtool``: it is well-formed, and goes by alerts and labels that there are."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from support.alertmanager import CONFIG, amtool
from support.processes import ROOT

RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
GIVEN: dict[str, Any] = yaml.safe_load(CONFIG.read_text())


def alerts() -> dict[str, dict[str, str]]:
    """The labels that each rule sets."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule["labels"] for group in groups for rule in group["rules"]}


def named(matchers: list[str]) -> set[str]:
    """Alerts that matchers name."""
    return {
        name for it in matchers if it.startswith("alertname =") for name in it.rpartition(" ")[2].strip('"').split("|")
    }


def test_it_is_well_formed() -> None:
    assert "SUCCESS" in amtool("check-config", str(CONFIG))


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["severity=critical", "alertname=SidecarDown"], "page"),
        (["severity=warning", "alertname=ServiceLatency"], "chat"),
        (["severity=critical", "alertname=MessageQueueDepth"], "page"),
    ],
)
def test_alerts_go_where_they_should(labels: list[str], receiver: str) -> None:
    assert amtool("config", "routes", "test", f"--config.file={CONFIG}", *labels).strip() == receiver


def test_it_goes_by_alerts_that_there_are_and_hides_none_behind_itself() -> None:
    for rule in GIVEN["inhibit_rules"]:
        sources, targets = named(rule["source_matchers"]), named(rule["target_matchers"])
        assert sources
        assert sources | targets <= alerts().keys()
        assert not sources & targets
        assert rule["equal"]


def test_what_users_feel_is_never_hidden_but_behind_a_sidecar_that_is_gone() -> None:
    for rule in GIVEN["inhibit_rules"]:
        if named(rule["target_matchers"]) & {"ServiceErrorRate", "ServiceLatency"}:
            assert "direction = outbound" in rule["target_matchers"]


def test_alerts_that_are_compared_by_their_callee_have_one() -> None:
    text = RULES.read_text()
    for rule in (it for it in GIVEN["inhibit_rules"] if it["equal"] == ["callee"]):
        for name in named(rule["source_matchers"]) | named(rule["target_matchers"]):
            (body,) = re.findall(rf"alert: {name}\n(.*?)annotations:", text, re.DOTALL)
            assert "callee" in body or "circuit_breaker_state" in body, name


def test_its_secret_is_in_no_file_of_ours() -> None:
    for receiver in GIVEN["receivers"]:
        for hook in receiver["webhook_configs"]:
            assert hook["http_config"]["authorization"].keys() == {"type", "credentials_file"}
