"""What Consul's catalog says of sidecars is hostile until it is read."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from sidecar.registry.consul_catalog import MOST, read, services, sidecars

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


class Http:
    """Answers as a Consul whose catalog has two services of sidecars; ``failing`` of them cannot be read."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing

    async def get(self, callback: Any, path: str, params: Any, headers: Any) -> Any:
        if path == "/v1/catalog/services":
            return {"web-sidecar": ["sidecar"], "shop-sidecar": ["sidecar"], "web": [], "odd/name-sidecar": ["sidecar"]}
        if path.rpartition("/")[2] in self.failing:
            raise aiohttp.ServerDisconnectedError
        return [GOOD]


def catalog(*failing: str) -> Any:
    client = SimpleNamespace(dc="", http=Http(*failing), prepare_headers=dict)
    return asyncio.run(sidecars(client))


def test_a_service_that_cannot_be_read_takes_nobody_along(caplog: pytest.LogCaptureFixture) -> None:
    assert len(catalog()) == 2
    assert not caplog.records
    assert len(catalog("shop-sidecar")) == 1
    assert "shop-sidecar" in caplog.text
    with pytest.raises(OSError, match="Server disconnected"):
        catalog("shop-sidecar", "web-sidecar")


def test_there_is_a_bound() -> None:
    assert len(read([GOOD] * (MOST + 10))) == MOST


def test_services_have_the_tags_of_all_their_instances() -> None:
    client: Any = SimpleNamespace(dc="dc1", http=Http(), prepare_headers=dict)
    assert asyncio.run(services(client)) == {
        "web-sidecar": {"sidecar"}, "shop-sidecar": {"sidecar"}, "web": frozenset(), "odd/name-sidecar": {"sidecar"},
    }  # fmt: skip


@pytest.mark.parametrize(("answer", "expected"), [({"a": None, "b": [7, "x"]}, {"a": set(), "b": {"x"}}), ([], None)])
def test_a_list_of_services_that_makes_no_sense(answer: Any, expected: Any) -> None:
    async def get(*_: Any, **__: Any) -> Any:
        return answer

    client: Any = SimpleNamespace(dc="", http=SimpleNamespace(get=get), prepare_headers=dict)
    if expected is None:
        with pytest.raises(OSError, match="no list of services"):
            asyncio.run(services(client))
    else:
        assert asyncio.run(services(client)) == expected
