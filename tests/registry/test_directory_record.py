"""The content and the name of an instance's file."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.instance import Instance
from sidecar.registry import Workload
from sidecar.registry.directory_record import MAX_SIZE, decode, encode, file_name

SERVICE = Workload(
    name="tasks",
    id="tasks-1",
    address="10.0.0.5",
    tags=("a", "b"),
    meta={"v": "1"},
    port=10030,
    passing_weight=5,
    warning_weight=2,
)
GOOD = json.loads(encode(SERVICE, "passing", "fine"))


@pytest.mark.parametrize(
    ("status", "state", "weight"), [("passing", "healthy", 5), ("warning", "warning", 2), ("critical", "critical", 5)]
)
def test_what_is_written_can_be_read(status: str, state: str, weight: int) -> None:
    record = decode(encode(SERVICE, status, "GET /health: 200"))
    assert record.service == "tasks"
    assert record.instance == Instance(
        host="10.0.0.5",
        port=10030,
        id="tasks-1",
        weight=weight,
        state=state,
        tags=("a", "b"),
        meta={"v": "1"},
        sidecar=True,
    )


def test_where_its_sidecar_can_be_asked() -> None:
    found = decode(encode(replace(SERVICE, admin=15000), "passing", ""))
    assert found.instance.admin == 15000
    assert "admin" not in GOOD
    other = {**GOOD, "sidecar": False, "admin": 15000}
    assert decode(json.dumps(other).encode()).instance.admin == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"admin": "80"}, "admin"),
        ({"admin": 65536}, "admin"),
        ({"port": 0}, "port"),
        ({"port": "80"}, "port"),
        ({"port": True}, "port"),
        ({"port": 80.5}, "port"),
        ({"port": 10**30}, "port"),
        ({"host": ""}, "host"),
        ({"host": "a b"}, "host"),
        ({"host": "a\r\nx"}, "host"),
        ({"host": "a" * 300}, "host"),
        ({"host": ["a"]}, "host"),
        ({"host": "0.0.0.0"}, "host"),
        ({"host": "224.0.0.1"}, "host"),
        ({"host": "::"}, "host"),
        ({"host": "127.1"}, "host"),
        ({"host": "0x7f000001"}, "host"),
        ({"host": "10.0.0.1:80"}, "host"),
        ({"host": "fe80::1%\n"}, "host"),
        ({"host": "a..b"}, "host"),
        ({"host": "-a"}, "host"),
        ({"host": "é.example"}, "host"),
        ({"status": "up"}, "status"),
        ({"status": None}, "status"),
        ({"weights": {"passing": -1}}, "passing"),
        ({"weights": []}, "weights"),
        ({"tags": "ab"}, "tags"),
        ({"tags": [1]}, "tags"),
        ({"tags": ["\ud800"]}, "tags"),
        ({"tags": ["a"] * 2000}, "tags"),
        ({"meta": {"a": 1}}, "meta"),
        ({"meta": {"\udfff": ""}}, "meta"),
        ({"id": "a\ud800"}, "id"),
        ({"id": "a\x1b[2J"}, "id"),
        ({"id": "a" * 600}, "id"),
        ({"weights": {"passing": 10**30}}, "passing"),
        ({"id": None}, "id"),
        ({"service": 5}, "service"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode(json.dumps(GOOD | change).encode())


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "::1", "fe80::1%eth0", "web", "my_app.local", "a-b.example.", "1a", "xn--e"]
)
def test_a_host_that_can_be_dialled_passes(host: str) -> None:
    assert decode(json.dumps(GOOD | {"host": host}).encode()).instance.host == host


@given(st.binary() | st.sampled_from([b"[" * MAX_SIZE, b'{"a":' * 9999, b"\xff", b"1e999", b"9" * MAX_SIZE]))
def test_any_other_bytes_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


_names = st.text(min_size=1).filter(lambda name: name.isprintable())


@given(st.lists(_names, unique=True, max_size=5) | st.just(["..", ".", "%2E%2E", "a/b", "a", "a" * 300, "é", "A"]))
def test_names_are_safe_and_distinct(names: list[str]) -> None:
    safe = [file_name(name) for name in names]
    assert len(set(safe)) == len(names)
    for name in safe:
        assert name
        assert len(name.encode()) < 230
        assert not name.startswith(".")
        assert "/" not in name
