from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import yaml

from sidecar.agent.plan import Plan, Stored, plan
from sidecar.agent.plan_report import as_dict, lines
from sidecar.config.load import load_text
from sidecar.config.schema import Config
from sidecar.core.secret import Secret

A = {"bind": "127.0.0.1:7001", "endpoints": ["127.0.0.1:9"]}
B = {"bind": "127.0.0.1:7002", "endpoints": ["127.0.0.1:9"]}
QUEUED = {**A, "queue": {"path": "/q", "spool": True}}


def config(**sections: Any) -> Config:
    whole = {"service": {"name": "web", "address": "127.0.0.1"}, **sections}
    return load_text(yaml.safe_dump(whole), "sidecar.yaml", {})


def between(old: dict[str, Any], new: dict[str, Any], stored: dict[str, Stored] | None = None) -> Plan:
    """The plan from these upstreams to those."""
    return plan(config(upstreams=old), config(upstreams=new), stored)


def refused(found: Plan) -> list[str]:
    return [problem.path for problem in found.refused]


def test_nothing_changes() -> None:
    found = between({"a": A}, {"a": A})
    assert found.empty
    assert list(lines(found)) == ["a reload would change nothing"]


def test_upstreams_come_go_move_and_change() -> None:
    old = {"stays": A, "goes": B, "moves": {**A, "bind": "127.0.0.1:7003"}}
    new = {
        "comes": {**B, "bind": "127.0.0.1:7005"},
        "moves": {**A, "bind": "127.0.0.1:7004"},
        "stays": {**A, "timeout": {"request": "3s"}},
    }
    found = between(old, new)
    assert (found.refused, found.removed, found.opened, found.changed) == (
        (), ("goes",), ("comes", "moves"), ("stays",),
    )  # fmt: skip
    assert list(lines(found)) == [
        "a reload would change:",
        "  upstreams.goes: removed",
        "  upstreams.comes: opened",
        "  upstreams.moves: opened",
        "  upstreams.moves.bind: 127.0.0.1:7003 → 127.0.0.1:7004",
        "  upstreams.stays.timeout.request: 30 → 3",
    ]


def test_what_is_read_at_the_start_is_refused() -> None:
    found = plan(config(tracing={"propagate": ["b3"]}), config(tracing={"propagate": ["w3c"]}))
    assert refused(found) == ["tracing.propagate"]
    assert next(lines(found)) == "a reload would be refused:"
    assert as_dict(found)["refused"] == [{"path": "tracing.propagate", "message": found.refused[0].message}]
    assert refused(
        plan(config(), config(inbound={"bind": "127.0.0.1:0"}, service={"name": "web", "app": "127.0.0.1:9"}))
    )


def test_settings_outside_of_listeners() -> None:
    old = config(drain={"timeout": "1s"}, log={"level": "info"}, admin={"token": "one"})
    found = plan(old, config(drain={"timeout": "2s"}, log={"level": "warning"}, admin={"token": "two"}))
    assert found.settings == ("admin.token", "log.level", "drain")
    assert "two" not in "\n".join(lines(found))


def test_a_port_is_not_handed_over_at_once() -> None:
    assert refused(between({"a": A}, {"b": A})) == ["upstreams.b.bind"]


def test_an_upstream_in_its_place_keeps_protocol_and_spool() -> None:
    found = between({"a": A}, {"a": {**A, "protocol": "tcp", "balancer": "random"}})
    assert refused(found) == ["upstreams.a.protocol"]


def test_where_requests_are_queued_stays() -> None:
    assert refused(between({"a": A}, {"a": QUEUED})) == ["upstreams.a"]
    assert refused(between({"a": QUEUED}, {"a": A})) == []
    # It was taken out before, and is open still.
    assert refused(between({"a": A}, {"a": QUEUED}, {"upstreams.a": Stored("/q")})) == []
    assert refused(between({"a": QUEUED}, {"a": {**QUEUED, "bind": "127.0.0.1:7009"}})) == ["upstreams.a.bind"]


def test_upstreams_with_stored_requests_stay() -> None:
    waiting = {"upstreams.a": Stored("/q", 3)}
    found = between({"a": QUEUED}, {}, waiting)
    assert refused(found) == ["upstreams.a"]
    assert "3 requests are stored" in found.refused[0].message
    assert refused(between({"a": QUEUED}, {"a": A}, waiting)) == []


#: Something in every section.
WHOLE: dict[str, Any] = {
    "service": {"name": "web", "address": "127.0.0.1", "app": "127.0.0.1:9", "tags": ["a"], "meta": {"a": "b"}},
    "registry": "consul://127.0.0.1:8500",
    "consul": {"token": "one"},
    "inbound": {"bind": "127.0.0.1:7000", "rate_limit": {"rate": "5/s"}},
    "upstreams": {"a": {**A, "rate_limit": {"rate": "5/s"}, "routes": [{"match": {"path": "/x"}}]}},
    "admin": {"token": "one"},
    "tracing": {"otlp": "http://127.0.0.1:4318"},
    "probes": {"bind": "0.0.0.0:15020"},
    "dns": {"servers": ["127.0.0.1:53"]},
    "redis": {"url": "redis://127.0.0.1:6379"},
    "redirect": {"outbound": {"ports": [80]}, "inbound": {}},
}


def test_no_change_of_any_value_is_ignored() -> None:
    old = config(**WHOLE)
    ignored = [path for path, new in others(old, "") if plan(old, new).empty]
    seen = {path.split(".")[1] for path, _ in others(old, "")}
    assert seen == {field.name for field in fields(Config)}
    assert ignored == []


def test_a_plan_changes_neither_configuration() -> None:
    old, new = config(**WHOLE), config(upstreams={"b": B})
    assert plan(old, new) == plan(old, new)
    assert (old, new) == (config(**WHOLE), config(upstreams={"b": B}))


def others(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """This value with one of all that it holds replaced by another, for each; with the path of that."""
    if is_dataclass(value) and not isinstance(value, type):
        for field in (it for it in fields(value) if it.init):  # others follow from these
            for where, changed in others(getattr(value, field.name), f"{path}.{field.name}"):
                yield where, replace(value, **{field.name: changed})
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from ((where, {**value, key: changed}) for where, changed in others(item, f"{path}.{key}"))
        if value:
            yield path, {}
    elif isinstance(value, tuple):
        for n, item in enumerate(value):
            for where, changed in others(item, f"{path}[{n}]"):
                yield where, (*value[:n], changed, *value[n + 1 :])
    elif isinstance(value, bool):
        yield path, not value
    elif isinstance(value, (int, float)):
        yield path, value + 1
    elif isinstance(value, str):
        yield path, f"{value}x"
    elif isinstance(value, Secret):
        yield path, Secret("another")
    elif isinstance(value, frozenset):
        yield path, value | {"x"}
