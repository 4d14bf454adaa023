"""Keys that filters declare: one of another package in ``filters``, one of our own by its name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Any, ClassVar

import pytest

from sidecar.config import declared, schema, traffic
from sidecar.config.containers import Fields
from sidecar.config.declared import Settings, key
from sidecar.config.differences import differences
from sidecar.config.keys import INHERIT
from sidecar.config.show import effective
from sidecar.config.values import Duration, Integer
from sidecar.exchange.filter import Filter
from support.configs import config_of, problems_of


class StampSettings(Settings):
    """How old a stamp
    may be."""

    most: int = key(Integer(1, 10), "The most of them.")
    age: float = key(Duration(), "How old.", default=60.0)


class Stamp(Filter):
    name: ClassVar[str] = "stamp"
    settings_class: ClassVar[Any] = StampSettings
    sides: ClassVar[tuple[str, ...]] = ("outbound",)


class Misspelt(Filter):
    name: ClassVar[str] = "misspelt"

    def on_reqest(self, x: Any) -> None: ...


def text(upstream: str, protocol: str = "http") -> str:
    return f"""
service: {{name: s, app: 127.0.0.1:8080}}
upstreams:
  tasks: {{bind: 127.0.0.1:9000, protocol: {protocol}, endpoints: [127.0.0.1:9001], {upstream}}}
"""


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    here = __name__
    points = {
        name: metadata.EntryPoint(name, f"{here}:{value}", declared.GROUP)
        for name, value in (
            ("stamp", "Stamp"),
            ("misspelt", "Misspelt"),
            ("gone", "Gone"),
            ("other", "Stamp"),
            ("host", "Stamp"),
        )
    }
    monkeypatch.setattr(declared, "installed", lambda: points)
    monkeypatch.setattr(declared, "_found", {})


def test_another_packages_filter_has_its_settings() -> None:
    config = config_of(text("filters: [{use: stamp, most: 3, age: 5s}], routes: [{match: {path: /a}}]"))
    tasks = config.upstreams["tasks"]
    (used,) = tasks.filters
    assert (used.declared.filter, used.settings) == (Stamp, StampSettings(most=3, age=5.0))
    assert tasks.routes[0].filters is INHERIT
    assert effective(config)["upstreams"]["tasks"]["filters"] == [{"use": "stamp", "most": 3, "age": 5.0}]
    other = config_of(text("filters: [{use: stamp, most: 4, age: 5s}], routes: [{match: {path: /a}}]"))
    assert [it.path for it in differences(config, other)] == ["upstreams.tasks.filters"]


@pytest.mark.parametrize(
    ("filters", "path", "told"),
    [
        ("{use: stamp}", "upstreams.tasks.filters[0].most", "is missing"),
        ("{use: stamp, most: 11}", "upstreams.tasks.filters[0].most", "from 1 to 10"),
        ("{use: stamp, most: 1, agee: 2}", "upstreams.tasks.filters[0].agee", "nearest='age'"),
        ("{use: stampp, most: 1}", "upstreams.tasks.filters[0].use", "is no filter that is installed"),
        ("{most: 1}", "upstreams.tasks.filters[0].use", "is missing"),
        ("stamp", "upstreams.tasks.filters[0]", "a mapping with use"),
        ("{use: [stamp]}", "upstreams.tasks.filters[0].use", "has the wrong type"),
        ("{use: misspelt}", "upstreams.tasks.filters[0].use", "has on_reqest, which is no hook"),
        ("{use: gone}", "upstreams.tasks.filters[0].use", "cannot be loaded from"),
        ("{use: host, most: 1}", "upstreams.tasks.filters[0].use", "has the name of a filter of the sidecar's own"),
        ("{use: other, most: 1}", "upstreams.tasks.filters[0].use", "calls itself 'stamp'"),
    ],
)
def test_what_is_wrong_is_told(filters: str, path: str, told: str) -> None:
    (problem,) = problems_of(text(f"filters: [{filters}]"))
    assert problem.path == path
    assert told in str(problem)


def test_where_it_may_not_stand() -> None:
    (problem,) = problems_of(text("filters: [{use: stamp, most: 1}]", "tcp"))
    assert (problem.path, problem.message) == ("upstreams.tasks.filters[0].use", "is for http only")
    inbound = text("").replace(
        "upstreams:", "inbound: {bind: 0.0.0.0:1234, filters: [{use: stamp, most: 1}]}\nupstreams:"
    )
    (problem,) = problems_of(inbound)
    assert (problem.path, problem.message) == ("inbound.filters[0].use", "is for outbound only")


def test_one_of_our_own_has_a_key_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for section in (schema.INBOUND, traffic.INBOUND_ROUTE, schema.UPSTREAM, traffic.UPSTREAM_ROUTE):
        for attribute in ("keys", "defaults", "declared"):
            monkeypatch.setattr(section, attribute, getattr(section, attribute).copy())
    monkeypatch.setitem(schema.DECLARED, "stamp", declared.declared(Stamp))  # and gone again in the end
    schema.declare(Stamp)
    assert "stamp" not in schema.INBOUND.keys
    assert schema.UPSTREAM.schema()["properties"]["stamp"]["anyOf"][0]["description"] == "How old a stamp may be."
    routes = "routes: [{match: {path: /a}}, {match: {path: /b}, stamp: off}, {match: {path: /c}, stamp: {most: 9}}]"
    config = config_of(text(f"stamp: {{most: 2}}, {routes}"))
    tasks = config.upstreams["tasks"]
    assert tasks.policies["stamp"] == StampSettings(most=2)
    assert [it.policies for it in tasks.routes] == [{}, {"stamp": None}, {"stamp": StampSettings(most=9)}]
    assert effective(config)["upstreams"]["tasks"]["stamp"] == {"most": 2, "age": 60.0}
    other = config_of(text(f"stamp: {{most: 3}}, {routes}"))
    assert [(it.path, it.old, it.new) for it in differences(config, other)] == [
        ("upstreams.tasks.stamp.most", "2", "3")
    ]
    (problem,) = problems_of(text("stamp: {most: 3}", "tcp"))
    assert (problem.path, problem.message) == ("upstreams.tasks.stamp", "is not for protocol tcp")


class Wordy(Settings):
    """Keys that are called like what settings say of themselves."""

    check: int = key(Integer(1, 10), "One.", default=1)  # type: ignore[assignment]
    short: int = key(Integer(1, 10), "Two.", default=2)  # type: ignore[assignment, misc]
    free: int = key(Integer(1, 10), "Three.", default=3)  # type: ignore[assignment, misc]
    by_protocol: int = key(Integer(1, 10), "Four.", default=4)  # type: ignore[assignment, misc]


class WordyFilter(Filter):
    name: ClassVar[str] = "wordy"
    settings_class: ClassVar[Any] = Wordy


def test_any_word_may_be_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    point = metadata.EntryPoint("wordy", f"{__name__}:WordyFilter", declared.GROUP)
    monkeypatch.setattr(declared, "installed", lambda: {"wordy": point})
    (used,) = config_of(text("filters: [{use: wordy, check: 5}]")).upstreams["tasks"].filters
    assert used.settings == Wordy(check=5)
    (problem,) = problems_of(text("filters: [{use: wordy, x-y: 5}]"))
    assert problem.message == "is not a known key"


class Ordered(Settings):
    """Two that have to be in order."""

    least: int = key(Integer(1, 10), "The least.", default=1)
    most: int = key(Integer(1, 10), "The most.", told="twice the least")

    @staticmethod
    def complete(given: dict[str, Any]) -> None:
        given.setdefault("most", 2 * given.get("least", 1))

    @staticmethod
    def check(given: Sequence[Fields], protocol: str) -> None:
        for fields in given:
            if "most" in fields and fields["most"] < fields.value("least"):
                fields.places["most"].report(f"is below the least, over {protocol}")


class OrderedFilter(Filter):
    name: ClassVar[str] = "ordered"
    doc: ClassVar[str] = "In order."
    settings_class: ClassVar[Any] = Ordered


def test_settings_have_a_say_in_what_fits_together(monkeypatch: pytest.MonkeyPatch) -> None:
    point = metadata.EntryPoint("ordered", f"{__name__}:OrderedFilter", declared.GROUP)
    monkeypatch.setattr(declared, "installed", lambda: {"ordered": point})
    (used,) = config_of(text("filters: [{use: ordered, least: 3}]")).upstreams["tasks"].filters
    assert used.settings == Ordered(least=3, most=6)
    assert used.declared.section.doc == "In order."
    routes = "routes: [{match: {path: /a}, filters: [{use: ordered, least: 3, most: 2}]}]"
    (problem,) = problems_of(text(routes))
    assert (problem.path, problem.message) == (
        "upstreams.tasks.routes[0].filters[0].most", "is below the least, over http",
    )  # fmt: skip
