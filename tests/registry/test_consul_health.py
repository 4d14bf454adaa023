"""Reading the answer of a health query."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.admin import report
from sidecar.agent import snapshots
from sidecar.endpoints.balancers.table import create
from sidecar.endpoints.cluster import Cluster
from sidecar.registry.consul_health import instances, read
from sidecar.registry.validate import Refusals
from support.clock import Clock


def entry(*statuses: str, address: str = "10.0.0.2", port: Any = 80, weights: Any = None, id: str = "a") -> Any:
    return {
        "Node": {"Address": "10.0.0.1"},
        "Service": {"ID": id, "Address": address, "Port": port, "Weights": weights, "Tags": ["t"], "Meta": {"k": "v"}},
        "Checks": [{"Status": status} for status in statuses],
    }


@pytest.mark.parametrize(
    ("statuses", "state"),
    [
        ((), "healthy"),
        (("passing", "passing"), "healthy"),
        (("passing", "warning"), "warning"),
        (("warning", "critical"), None),
        (("maintenance",), None),
    ],
)
def test_an_instance_is_as_well_as_its_worst_check(statuses: tuple[str, ...], state: str | None) -> None:
    assert [instance.state for instance in instances([entry(*statuses)])] == ([state] if state else [])


def test_the_weight_is_that_of_the_state() -> None:
    weights = {"Passing": 9, "Warning": 0}
    assert [i.weight for i in instances([entry("passing", weights=weights)])] == [9]
    assert [i.weight for i in instances([entry("warning", weights=weights)])] == [0]
    assert [i.weight for i in instances([entry("warning")])] == [1]


@pytest.mark.parametrize(
    ("meta", "sidecar", "admin"),
    [
        ({"sidecar": "1", "sidecar_admin": "15000"}, True, 15000),
        ({"sidecar": "1"}, True, 0),
        ({"sidecar_admin": "15000"}, False, 0),
        ({"sidecar": "1", "sidecar_admin": "99999"}, True, 0),
        ({"sidecar": "1", "sidecar_admin": "x"}, True, 0),
        ({"sidecar": "1", "sidecar_admin": "015"}, True, 0),
    ],
)
def test_where_its_sidecar_can_be_asked(meta: dict[str, str], sidecar: bool, admin: int) -> None:
    found = entry("passing")
    found["Service"]["Meta"] = meta
    assert [(i.sidecar, i.admin) for i in instances([found])] == [(sidecar, admin)]


def test_without_an_address_the_service_is_where_its_node_is() -> None:
    assert [i.host for i in instances([entry(address="")])] == ["10.0.0.1"]


@pytest.mark.parametrize("port", [0, -1, 65536, None, "x", "80", 80.5, True, 10**30])
def test_what_cannot_be_dialed_is_left_out(port: Any) -> None:
    assert instances([entry(port=port)]) == ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"address": "a b"}, "host"),
        ({"address": "0.0.0.0"}, "host"),
        ({"address": ["10.0.0.1"]}, "host"),
        ({"address": "1.2"}, "host"),
        ({"weights": {"Passing": 2**64}}, "weight"),
        ({"weights": {"Passing": "1"}}, "weight"),
        ({"weights": [1]}, "Weights"),
        ({"id": "\ud800"}, "id"),
        ({"id": 5}, "id"),
        ({"id": "a\x1b[31m"}, "id"),
    ],
)
def test_what_makes_no_sense_is_left_out_for_itself_and_said(changed: dict[str, Any], said: str) -> None:
    refused: list[str] = []
    assert [i.id for i in instances([entry(id="good"), entry(**{"id": "bad", **changed})], refused.append)] == ["good"]
    assert len(refused) == 1
    assert said in refused[0]
    assert refused[0].isascii()


@given(
    st.text(max_size=30)
    | st.lists(st.sampled_from(["[", "]", "{", "}", ",", " ", "1", '"a"', ":", "null"])).map("".join)
)
def test_any_text_is_read_or_a_value_error(text: str) -> None:
    try:
        assert read(text) == ()
    except ValueError:
        pass


def test_an_entry_may_be_long_and_what_is_wrong_in_it_is_its_own() -> None:
    long = entry(id="long") | {"Checks": [{"Status": "passing", "Output": "x" * 100_000}]}
    text = json.dumps([entry(id="a"), long, entry(id="b")])
    assert [i.id for i in read(text)] == ["a", "b", "long"]
    odd = json.dumps([entry(id="a"), entry(id="b", port=1)]).replace('"Port": 1', f'"Port": {"9" * 5000}')
    assert [i.id for i in read(odd)] == ["a"]


def test_more_instances_than_a_service_has_are_an_error() -> None:
    with pytest.raises(ValueError, match="4096"):
        instances([entry()] * 4097)


def test_one_line_when_those_that_are_left_out_change(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(0.0)
    refusals = Refusals("web", clock)
    for problems in (["a: x"], ["a: x"], [], ["a: x"], [f"{n}: x" for n in range(99)]):
        refusals.report(problems)
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "1 of the instances of web are left out: a: x",
        "1 of the instances of web are left out: a: x",
        "99 of the instances of web are left out: 0: x; 1: x; 2: x; 3: x; 4: x; and 94 more",
    ]
    for n in range(1000):
        refusals.report([str(n)])
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 6


def test_the_order_does_not_depend_on_the_answer() -> None:
    one, two = entry(id="a"), entry(id="b")
    assert instances([one, two]) == instances([two, one])


_KEYS = [
    "Service",
    "Node",
    "Checks",
    "Port",
    "Weights",
    "Status",
    "Tags",
    "Meta",
    "Address",
    "ID",
    "Passing",
    "Warning",
]
_texts = st.sampled_from(["10.0.0.1", "web", "::1", "passing", "warning", "a\ud800", "a b", "\x1b[2J", "x" * 600, ""])
_leaves = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | _texts | st.text(max_size=5)
_json = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS), inner),
    max_leaves=12,
)
# Mostly as it should be, with anything in some places.
_service = st.fixed_dictionaries(
    {"Port": st.integers(1, 65535) | _leaves},
    optional={
        "ID": _texts | _leaves,
        "Address": _texts | _leaves,
        "Weights": st.dictionaries(st.sampled_from(["Passing", "Warning"]), _leaves) | _leaves,
        "Tags": st.lists(_texts, max_size=3) | _json,
        "Meta": st.dictionaries(_texts, _texts, max_size=3) | _json,
    },
)
_entry = st.fixed_dictionaries(
    {"Service": _service, "Node": st.fixed_dictionaries({"Address": _texts})},
    optional={"Checks": st.lists(st.fixed_dictionaries({"Status": _texts})) | _json},
)


@given(st.lists(_entry | _json, max_size=6) | _json)
def test_any_json_gives_instances_that_can_be_shown_or_a_value_error(answer: Any) -> None:
    refused: list[str] = []
    refused_as_text: list[str] = []
    try:
        found = instances(answer, refused.append)
    except ValueError:
        assert not isinstance(answer, list)
        with pytest.raises(ValueError):
            read(json.dumps(answer))
        return
    assert read(json.dumps(answer, indent=1), refused_as_text.append) == found
    assert refused_as_text == refused
    assert len(found) + len(refused) <= len(answer)
    cluster = Cluster("web", create("weighted", Random(1)), lambda: 0.0, Random(1))
    cluster.update(found)
    shown = json.loads(
        orjson.dumps([report.endpoint_as_dict(snapshots._endpoint(endpoint, 0.0)) for endpoint in cluster.endpoints])
    )
    assert len(shown) == len({(i.host, i.port) for i in found})
    orjson.dumps([asdict(instance) for instance in found])
    for problem in refused:
        problem.encode()
