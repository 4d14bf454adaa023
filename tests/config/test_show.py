from __future__ import annotations

import dataclasses
import json
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.agent import Admin, Consul
from sidecar.config.load import load_text
from sidecar.config.schema import Config
from sidecar.config.show import effective
from sidecar.core.secret import NO_SECRET
from support.configs import FULL, config_of
from support.examples import examples


def reload(config: Config) -> Config:
    return load_text(yaml.safe_dump(effective(config)), "effective.yaml", {})


def test_the_shape_is_that_of_the_file() -> None:
    shown = effective(config_of(FULL))
    assert shown["inbound"]["bind"] == "0.0.0.0:10030"
    assert shown["inbound"]["rate_limit"] == "off"
    assert shown["registry"] == "consul://127.0.0.1:8500"
    assert shown["upstreams"]["ollama"]["discover"] == {"service": "ollama", "tag": ""}
    assert shown["upstreams"]["ollama"]["retry"]["on"] == [502, 503, 504, "connect", "reset"]
    assert "endpoints" not in shown["upstreams"]["ollama"]
    assert shown["upstreams"]["redis"]["endpoints"] == ["10.0.0.9:6379"]
    assert shown["upstreams"]["redis"]["timeout"] == {"connect": 1, "idle": 0, "total": 0}
    assert "routes" not in shown["upstreams"]["redis"]
    assert json.loads(json.dumps(shown)) == shown


def test_secrets_are_stars() -> None:
    text = FULL + "consul: {token: hunter2}\nadmin: {token: hunter3}\n"
    shown = effective(config_of(text))
    assert shown["consul"]["token"] == shown["admin"]["token"] == "***"
    assert "hunter" not in json.dumps(shown)
    assert effective(config_of(FULL))["consul"]["token"] == ""


def test_amqp_is_shown_without_what_it_has_not() -> None:
    shown = effective(
        config_of(
            """
            service: {name: a}
            upstreams:
              rabbitmq:
                bind: 127.0.0.1:5672
                endpoints: ["b:5672"]
                protocol: amqp
                amqp: {publish: [{exchange: a}, {rate: 30/s, over: nack}]}
            """
        )
    )["upstreams"]["rabbitmq"]
    assert shown["timeout"] == {"connect": 1, "total": 0, "head": 10}
    assert shown["limits"] == {"connections": 16384}
    assert not {"on", "methods"} & set(shown["retry"])
    assert "routes" not in shown
    assert shown["amqp"].pop("partitions", {}) == {}
    assert shown["amqp"] == {
        "management": "",
        "publish": [
            {"vhost": "*", "exchange": "a", "routing_key": "#", "rate": "0/s"},
            {"vhost": "*", "exchange": "*", "routing_key": "#", "rate": "30/s", "burst": 3, "over": "nack"},
        ],
        "queues": [],
        "watch_interval": 0.25,
        "hold": {"messages": 10_000, "bytes": 64 << 20, "timeout": 30},
        "max_message_size": 16 << 20,
        "prefetch": {"default": 0, "max": 0},
        "pause_on": [],
        "pause_keep": 5,
    }


def test_it_loads_as_the_same_configuration() -> None:
    config = config_of(FULL)
    assert reload(config) == config
    assert config_of(json.dumps(effective(config))) == config


_ACCESS = st.sampled_from(["off", "all", {"sample": "1%", "slow": "500ms"}])
_DURATIONS = st.one_of(st.integers(1, 86400), st.floats(0.001, 86400), st.sampled_from(["250ms", "3s", "5m", "1h"]))
_RATE_LIMITS = st.fixed_dictionaries(
    {"rate": st.tuples(st.integers(1, 10**6), st.sampled_from("smh")).map(lambda pair: f"{pair[0]}/{pair[1]}")},
    optional={"burst": st.integers(1, 1000), "key": st.sampled_from(["none", "ip"])},
)
_BULKHEADS = st.fixed_dictionaries({}, optional={"max_connections": st.integers(0, 100), "pending_timeout": _DURATIONS})
_BREAKERS = st.fixed_dictionaries(
    {}, optional={"failure_threshold": st.integers(1, 9), "failure_on": st.just([500, "connect"])}
)
_RETRIES = st.fixed_dictionaries(
    {"initial_delay": st.integers(0, 5), "max_delay": st.integers(5, 50)},
    optional={"max_attempts": st.integers(1, 9), "jitter": st.booleans()},
)
_OFF = st.sampled_from(["off", False])
_TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Co"]), min_size=1, max_size=20).map(
    lambda text: text.replace("$", "S")
)
_ROUTES = st.fixed_dictionaries(
    {"match": st.fixed_dictionaries({}, optional={"headers": st.dictionaries(st.sampled_from("abc"), _TEXTS)})},
    optional={
        "retry": st.one_of(_OFF, _RETRIES),
        "rate_limit": st.one_of(_OFF, _RATE_LIMITS),
        "bulkhead": st.one_of(_OFF, _BULKHEADS),
        "timeout": st.fixed_dictionaries({}, optional={"request": _DURATIONS, "total": _DURATIONS}),
        "circuit_breaker": st.one_of(_OFF, _BREAKERS),
    },
)
_ENDPOINTS = st.lists(st.integers(1, 65535), min_size=1, max_size=3, unique=True).map(
    lambda ports: [f"a:{port}" if port % 2 else {"address": f"[::1]:{port}", "weight": port} for port in ports]
)
_SHARED: dict[str, Any] = {
    "retry": st.one_of(_OFF, _RETRIES),
    "rate_limit": st.one_of(_OFF, _RATE_LIMITS),
    "bulkhead": st.one_of(_OFF, _BULKHEADS),
    "circuit_breaker": st.one_of(_OFF, _BREAKERS),
}
_HTTP = st.fixed_dictionaries(
    {"bind": st.just("127.0.0.1:0"), "endpoints": _ENDPOINTS},
    optional=_SHARED | {"routes": st.lists(_ROUTES, max_size=2), "limits": st.just({"head": "1MiB"})},
)
_TCP = st.fixed_dictionaries(
    {"bind": st.just("127.0.0.1:0"), "protocol": st.just("tcp"), "discover": st.just({"service": "x"})},
    optional=_SHARED,
)
_NAMES = st.one_of(st.sampled_from(["a", "é", "x.y", "1"]), _TEXTS.map(str.strip).filter(bool))
_PATTERNS = st.lists(st.sampled_from(["*", "#", "a", "b-c", "é", "7"]), max_size=4).map(".".join)
_PUBLISH = st.fixed_dictionaries(
    {"exchange": _PATTERNS, "routing_key": _PATTERNS},
    optional={"rate": st.sampled_from(["7/s", "100/m", "1000000/s"]), "vhost": st.sampled_from(["*", "/", "/x"])},
)
_QUEUES = st.fixed_dictionaries(
    {"name": _NAMES, "high": st.integers(1, 10**9)},
    optional={"vhost": st.sampled_from(["/", "/x"]), "over": st.sampled_from(["hold", "nack"]), "low": st.just(1)},
)
_AMQP_SECTIONS = st.fixed_dictionaries(
    # This password is shown as it is.
    {"credentials": st.fixed_dictionaries({"username": _NAMES, "password": st.just("***")})},
    optional={
        "vhosts": st.just(["/", "/x"]),
        "management": st.sampled_from(["", "http://c:15672"]),
        "publish": st.lists(_PUBLISH, max_size=1),
        "queues": st.lists(_QUEUES, max_size=3, unique_by=lambda queue: queue["name"]),
        "watch_interval": st.floats(0.01, 3600),
        "hold": st.fixed_dictionaries({}, optional={"messages": st.integers(1, 99), "timeout": st.integers(0, 9)}),
        "max_message_size": st.sampled_from(["1MiB", 5000]),
        "prefetch": st.fixed_dictionaries({}, optional={"default": st.integers(0, 9), "max": st.sampled_from([0, 9])}),
    },
)
_AMQP = st.fixed_dictionaries(
    {"bind": st.just("127.0.0.1:0"), "protocol": st.just("amqp"), "endpoints": _ENDPOINTS},
    optional=_SHARED | {"amqp": _AMQP_SECTIONS, "timeout": st.just({"head": 5, "total": 7})},
)
_CONFIGS = st.fixed_dictionaries(
    {
        "service": st.fixed_dictionaries(
            {"name": st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True), "app": st.just("127.0.0.1:1")},
            optional={"tags": st.lists(_TEXTS, max_size=3), "meta": st.dictionaries(st.sampled_from("xyz"), _TEXTS)},
        ),
        "registry": st.sampled_from(["directory:///run/mesh", "consul+tls://c:1", "consul://[::1]:8500"]),
        "upstreams": st.dictionaries(st.sampled_from("abc"), st.one_of(_HTTP, _TCP, _AMQP)),
    },
    optional={
        "inbound": st.fixed_dictionaries({"bind": st.just("0.0.0.0:0"), "protocol": st.sampled_from(["http", "tcp"])}),
        "tracing": st.fixed_dictionaries({}, optional={"sample": st.floats(0, 1), "otlp": st.just("http://j:1")}),
        "log": st.fixed_dictionaries(
            {}, optional={"access": st.sampled_from(["off", "all", {"sample": "1%", "slow": "500ms"}])}
        ),
        "drain": st.fixed_dictionaries({"timeout": _DURATIONS}),
        "consul": st.just({"token": "hunter2", "datacenter": "dc"}),
    },
)


@settings(max_examples=examples(100), deadline=None)
@given(_CONFIGS)
def test_what_is_shown_loads_as_the_same_configuration(data: dict[str, Any]) -> None:
    config = load_text(yaml.safe_dump(data), "mesh.yaml", {})
    config = dataclasses.replace(config, consul=Consul(token=NO_SECRET), admin=Admin())
    assert reload(config) == config
