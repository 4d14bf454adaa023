"""What Consul's catalog says of sidecars is hostile until it is read."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.registry.consul_catalog import MOST, read

GOOD: dict[str, Any] = {
    "ServiceAddress": "10.0.0.1", "ServicePort": 15020, "ServiceID": "web-sidecar-1", "ServiceTags": ["sidecar"],
    "ServiceMeta": {"metrics_port": "15020"},
}  # fmt: skip


def test_an_entry_is_an_instance() -> None:
    (found,) = read([GOOD])
    assert (found.host, found.port, found.id, found.meta) == ("10.0.0.1", 15020, "web-sidecar-1", GOOD["ServiceMeta"])
    (found,) = read([{**GOOD, "ServiceAddress": "", "Address": "10.0.0.2"}])
    assert found.host == "10.0.0.2"


@pytest.mark.parametrize("answer", [None, {}, "text", 7, [None], ["text"], [[]], [{}]])
def test_an_answer_that_is_no_list_of_entries_names_nobody(answer: Any) -> None:
    assert read(answer) == []


@pytest.mark.parametrize(
    "more",
    [
        {"ServicePort": 0}, {"ServicePort": "80"}, {"ServicePort": 1 << 20}, {"ServicePort": None},
        {"ServiceAddress": 7}, {"ServiceAddress": "a b"}, {"ServiceID": 7}, {"ServiceTags": "sidecar"},
        {"ServiceTags": []}, {"ServiceTags": [["sidecar"]]}, {"ServiceMeta": [1]}, {"ServiceMeta": {"a": 1}},
    ],
)  # fmt: skip
def test_an_entry_that_makes_no_sense_is_left_out(more: dict[str, Any]) -> None:
    assert read([{**GOOD, **more}, GOOD]) == read([GOOD])


def test_there_is_a_bound() -> None:
    assert len(read([GOOD] * (MOST + 10))) == MOST
