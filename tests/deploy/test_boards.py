"""The dashboards and what provisions them, without a Grafana: each is whole, and leads where it says."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import pytest
import yaml

from support.boards import FOLDER, NAMES, board, queries
from support.processes import ROOT

#: How Grafana names what is shown; it takes others for a text.
UNITS = {"short", "s", "reqps", "cps", "mps", "Bps", "percentunit"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@pytest.fixture(params=NAMES)
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    return board(request.param)


def panels(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Without the headings of rows."""
    return [panel for panel in found["panels"] if panel["type"] != "row"]


def test_they_are_the_only_ones_and_differ() -> None:
    assert sorted(path.stem for path in (FOLDER / "dashboards").iterdir()) == sorted(NAMES)
    assert {board(name)["uid"] for name in NAMES} == {f"sidecar-{name}" for name in NAMES}


def test_panels_have_what_their_readers_need(found: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels(found):
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel["title"]
        units = [panel["fieldConfig"]["defaults"].get("unit", "short")]
        units += [
            it["value"] for rule in panel["fieldConfig"]["overrides"] for it in rule["properties"] if it["id"] == "unit"
        ]
        assert set(units) <= UNITS, panel["title"]
    titles = [panel["title"] for panel in panels(found)]
    assert titles


def test_panels_do_not_overlap(found: dict[str, Any]) -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in found["panels"]]
    for title, place in places:
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, title
    for (title, a), (other, b) in combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (title, other)


def test_they_ask_whichever_prometheus_is_chosen(found: dict[str, Any]) -> None:
    variables = {it["name"]: it for it in found["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    assert all(it["datasource"] == SOURCE for it in variables.values() if it["type"] == "query")
    for panel in panels(found):
        assert all(it["datasource"] == SOURCE for it in (panel, *panel["targets"])), panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert references == list("ABCDEFGH"[: len(references)])


def test_they_use_the_variables_that_they_have(found: dict[str, Any]) -> None:
    has = {it["name"] for it in found["templating"]["list"]}
    text = " ".join(target["expr"] for panel in panels(found) for target in panel["targets"])
    used = set(re.findall(r"\$(\w+)", text)) - {"__rate_interval"}
    assert used == has - {"datasource", "runbook"}


def test_nothing_but_the_runbook_has_an_address(found: dict[str, Any]) -> None:
    """Links lead to other dashboards, by their uid, or to the runbook, which has one place to be changed in."""
    urls: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            urls.extend(value[name] for name in ("url",) if name in value)
            for it in value.values():
                collect(it)
        elif isinstance(value, list):
            for it in value:
                collect(it)
        elif isinstance(value, str) and "://" in value:
            assert value == "https://runbook.example/runbook.md"

    collect(found)
    headings = {
        it.lower() for it in re.findall(r"^### (\w+)$", (ROOT / "docs" / "runbook.md").read_text("utf-8"), re.MULTILINE)
    }
    boards = {f"sidecar-{name}" for name in NAMES}
    assert urls
    for url in urls:
        target = re.fullmatch(r"\$\{runbook\}(?:#(\w+))?|/d/([\w-]+)(?:\?.*)?", url)
        assert target, url
        assert target[1] is None or target[1] in headings, url
        assert target[2] is None or target[2] in boards, url


def test_each_alert_that_can_be_seen_has_a_panel_that_leads_to_the_runbook() -> None:
    named = {
        link["url"].rpartition("#")[2]
        for name in NAMES
        for panel in panels(board(name))
        for link in panel.get("links", ())
    }
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    alerts = {rule["alert"].lower() for group in groups for rule in group["rules"]}
    assert alerts - named == {
        "sidecarrestarts",
        "sidecarreloadfailed",
        "sidecarhostshortage",
        "workspacecreationfailures",
    }


def test_they_go_by_metrics_that_are_documented() -> None:
    documented = "".join((ROOT / "docs" / page).read_text("utf-8") for page in ("reference.md", "amqp.md"))
    documented += (ROOT / "deploy" / "prometheus" / "recording.yml").read_text("utf-8")
    used = {name for query in queries() for name in re.findall(r"\bsidecar_\w+", query.expression)}
    assert used
    assert {name for name in used if name.removesuffix("_bucket") not in documented} == set()


def test_what_is_provisioned_fits_together() -> None:
    (sources,) = (FOLDER / "provisioning" / "datasources").iterdir()
    (providers,) = (FOLDER / "provisioning" / "dashboards").iterdir()
    given = yaml.safe_load(sources.read_text())
    uids = [it["uid"] for it in given["datasources"]]
    assert len(set(uids)) == len(uids)
    assert set(re.findall(r"datasourceUid: (\w+)", sources.read_text())) <= set(uids)
    assert [it["type"] for it in given["datasources"] if it.get("isDefault")] == ["prometheus"]
    (provider,) = yaml.safe_load(providers.read_text())["providers"]
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)
