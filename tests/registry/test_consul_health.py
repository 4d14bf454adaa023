"""Reading the answer of a health query."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.registry.consul_health import instances


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


def test_without_an_address_the_service_is_where_its_node_is() -> None:
    assert [i.host for i in instances([entry(address="")])] == ["10.0.0.1"]


@pytest.mark.parametrize("port", [0, -1, 65536, None, "x"])
def test_what_cannot_be_dialed_is_left_out(port: Any) -> None:
    assert instances([entry(port=port)]) == ()


def test_the_order_does_not_depend_on_the_answer() -> None:
    one, two = entry(id="a"), entry(id="b")
    assert instances([one, two]) == instances([two, one])


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["Service", "Node", "Checks", "Port", "Weights", "Status", "Tags"]), inner)
    ),
    max_leaves=12,
)


@given(_json)
def test_nothing_but_a_value_error_comes_out(answer: Any) -> None:
    try:
        instances(answer)
    except ValueError:
        assert not isinstance(answer, list)
