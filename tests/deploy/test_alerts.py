"""The alert rules, by promtool: each fires and is silent when it should, and has its place in the runbook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from support.prometheus import promtool

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
CASES = FOLDER / "tests" / "alerts.yml"


def rules() -> dict[str, dict[str, Any]]:
    """The rules by their names."""
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_each_has_all_that_its_readers_need() -> None:
    for name, rule in rules().items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, name
        assert rule["annotations"]["runbook_url"] == f"https://runbook.example/runbook.md#{name.lower()}"


def test_each_has_a_place_in_the_runbook_which_has_no_other() -> None:
    parts = re.split(r"^### (\w+)$", (ROOT / "docs" / "runbook.md").read_text("utf-8"), flags=re.MULTILINE)
    texts = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(texts) == list(rules()), "in the same order"
    for name, text in texts.items():
        assert re.findall(r"\*\*(\w[\w ]*):\*\*", text) == ["Means", "Look at", "Do"], name


def test_they_go_by_metrics_that_are_documented() -> None:
    documented = "".join((ROOT / "docs" / page).read_text("utf-8") for page in ("reference.md", "amqp.md"))
    used = {name for rule in rules().values() for name in re.findall(r"\bsidecar_\w+", rule["expr"])}
    assert used
    assert {
        name for name in used - {"sidecar_upstream_callee"} if name.removesuffix("_bucket") not in documented
    } == set()


def test_each_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent() -> None:
    (test,) = yaml.safe_load(CASES.read_text())["tests"]
    cases = [(case["alertname"], bool(case["exp_alerts"])) for case in test["alert_rule_test"]]
    assert sorted(cases) == sorted((name, fires) for name in rules() for fires in (False, True))


def test_they_fire_and_are_silent_as_those_cases_say() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(CASES))
