"""JSON Schema of what keys have to do with each other: as much of ``rules`` as an editor can check.

Each function gives a list for ``allOf``. Whatever may come from the environment, ``${…}``, is let through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, Final

from sidecar.config.kinds import VARIABLE

Schema = dict[str, Any]

_OFF: Schema = {"enum": ["off", False]}
_BY_IP: Final[Schema] = {"anyOf": [{"const": "ip"}, VARIABLE]}
#: What a key that a protocol has no use for may still be: as if it were not there.
_NOTHING: Final[dict[str, Schema]] = {
    "routes": {"maxItems": 0},
    "host": {"enum": ["", None]},
    "subsets": {"maxProperties": 0},
    "sticky": {"enum": [None]},
    "canary": {"enum": [None]},
}


def is_(key: str, *values: Any) -> Schema:
    """The key is there, with one of these values."""
    return {"required": [key], "properties": {key: {"enum": list(values)}}}


def _may_be(key: str, value: str) -> Schema:
    """The key is there, with this value or one from the environment."""
    return {"required": [key], "properties": {key: {"anyOf": [{"const": value}, VARIABLE]}}}


def _given(key: str) -> Schema:
    return {"required": [key]}


def _not_empty(key: str) -> Schema:
    return {"required": [key], "properties": {key: {"minLength": 1}}}


def never(*all_of: Schema) -> Schema:
    return {"not": {"allOf": list(all_of)}}


def listener(not_for: Callable[[str], Mapping[str, frozenset[str]]]) -> list[Schema]:
    """What is not for a protocol: ``not_for`` says what that is."""
    found: list[Schema] = []
    for protocol in ("tcp", "amqp"):
        properties = {
            name: {"properties": dict.fromkeys(sorted(keys), False)} if keys else _NOTHING.get(name, _OFF)
            for name, keys in not_for(protocol).items()
        }
        found.append({"if": is_("protocol", protocol), "then": {"properties": properties}})
    return found


def upstream() -> list[Schema]:
    """One source of endpoints; ``amqp`` for that protocol; a hash for one balancer, balancers for HTTP."""
    connections = {"balancer": {"not": {"enum": ["peak_ewma", "prequal"]}}, "hash": {"properties": {"by": _BY_IP}}}
    return [
        never(_given("discover"), _given("endpoints")),
        {"if": _given("amqp"), "then": _may_be("protocol", "amqp")},
        {"if": _given("hash"), "then": _may_be("balancer", "consistent_hash")},
        {"if": _given("split"), "then": {"anyOf": [_given("subsets"), {"properties": {"split": _OFF}}]}},
        {"if": _given("canary"), "then": {"required": ["subsets", "split"]}},
        {"if": is_("protocol", "tcp", "amqp"), "then": {"properties": connections}},
        {
            "if": {"properties": {"discover": _given("sentinel")}, "required": ["discover"]},
            "then": is_("protocol", "tcp"),
        },
    ]


def discover() -> list[Schema]:
    """A service, or a master."""
    both = {"dependentRequired": {"sentinel": ["at"], "at": ["sentinel"]}}
    return [both, *(never(_given("sentinel"), _given(key)) for key in ("service", "tag"))]


def check() -> list[Schema]:
    """One kind of check."""
    return [never(_given("http"), is_("tcp", True)), {"if": _not_empty("host"), "then": _given("http")}]


def endpoint_check() -> list[Schema]:
    """One kind of check of endpoints."""
    kinds = (_given("http"), is_("tcp", True), is_("deep", True), _given("postgres"))
    return [
        *(never(one, other) for one, other in combinations(kinds, 2)),
        *({"if": _not_empty(name), "then": _given("postgres")} for name in ("user", "password", "database")),
        {"if": _not_empty("host"), "then": _given("http")},
    ]


def admin() -> list[Schema]:
    """Beyond loopback it takes a token."""
    loopback = r"^(127\.[0-9.]+|localhost|\[::1\]):|\$\{"
    return [
        {
            "if": {"required": ["bind"], "properties": {"bind": {"not": {"type": "string", "pattern": loopback}}}},
            "then": {"required": ["token"], "properties": {"token": {"not": {"enum": ["", None]}}}},
        }
    ]


def publish() -> list[Schema]:
    """What is about a rate takes one."""
    return [{"dependentRequired": {"burst": ["rate"], "over": ["rate"]}}]


def amqp() -> list[Schema]:
    """An account for what needs one, a spool for what is about it."""
    account = {
        "anyOf": [
            {"required": ["queues"], "properties": {"queues": {"minItems": 1}}},
            _not_empty("management"),
            _given("spool"),
        ]
    }
    spooling: Schema = {"not": is_("over", "spool")}
    return [
        {"if": account, "then": _given("credentials")},
        {"dependentRequired": {"dead_letters": ["spool"]}},
        {
            "if": {"not": _given("spool")},
            "then": {"properties": {"publish": {"items": spooling}, "queues": {"items": spooling}}},
        },
    ]


def root() -> list[Schema]:
    """Inbound needs an app; an upstream without endpoints a registry."""
    without = {"anyOf": [{"not": _given("registry")}, is_("registry", "none")]}
    return [
        {"if": _given("inbound"), "then": {"properties": {"service": _given("app")}}},
        {"if": without, "then": {"properties": {"upstreams": {"additionalProperties": _given("endpoints")}}}},
    ]
