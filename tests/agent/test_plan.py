from __future__ import annotations

from typing import Any

import yaml

from sidecar.agent.plan import Plan, Stored, plan
from sidecar.cli.rehearsal import as_dict, lines
from sidecar.config.load import load_text
from sidecar.config.schema import Config

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
    found = plan(config(tracing={"sample": 0.5}), config(tracing={"sample": 1.0}))
    assert refused(found) == ["tracing.sample"]
    assert next(lines(found)) == "a reload would be refused:"
    assert as_dict(found)["refused"] == [{"path": "tracing.sample", "message": found.refused[0].message}]
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


def test_an_upstream_in_its_place_keeps_protocol_balancer_and_spool() -> None:
    found = between({"a": A}, {"a": {**A, "protocol": "tcp", "balancer": "random"}})
    assert refused(found) == ["upstreams.a.protocol", "upstreams.a.balancer"]


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
