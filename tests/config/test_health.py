"""The keys under ``health``, and what a cluster is told of them."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.agent import rotation
from sidecar.config.errors import ConfigError
from sidecar.config.health import Eject, Health
from sidecar.config.load import load_text
from sidecar.config.show import effective, text
from sidecar.core.secret import Secret
from sidecar.endpoints.active_checks import EndpointCheck, Login
from sidecar.resilience.ejection import OFF, STANDARD, EjectionRules


def health_of(keys: str, more: str = "") -> Health:
    return load_text(configured(keys, more), "f.yaml").upstreams["up"].health


def configured(keys: str, more: str = "") -> str:
    return f"""
service: {{name: t}}
upstreams:
  up: {{bind: "127.0.0.1:1", endpoints: ["127.0.0.1:2"], {more} health: {{{keys}}}}}
"""


def test_what_is_left_out_is_as_it_always_was() -> None:
    health = health_of("")
    assert health == Health()
    assert rotation.rules(health.eject, "http") == STANDARD
    # Where none is used when none is eligible, failures leave one in.
    assert rotation.rules(health.eject, "http", refuse=True) == STANDARD._replace(at_most=0.5)


def test_an_empty_section_is_all_of_it() -> None:
    assert rotation.rules(health_of("eject: {}").eject, "http") == EjectionRules(
        consecutive=5, error_rate=0.5, latency=3.0, min_requests=20, window=10.0, first=10.0, longest=300.0,
        at_most=0.5, doubling=False,
    )  # fmt: skip
    rules = rotation.rules(health_of("eject: {}", "protocol: amqp,").eject, "amqp")
    assert (rules.error_rate, rules.latency, rules.consecutive) == (0.0, 0.0, 5)
    assert rotation.rules(health_of("eject: off").eject, "http") == OFF


def test_the_example_of_every_key() -> None:
    health = health_of(
        "eject: {consecutive: 5, error_rate: 50%, latency: 3, min_requests: 20, window: 10s, for: 10s, max_for: 5m, "
        "at_most: 50%}, when_none: refuse, slow_start: 30s"
    )
    assert health == Health(eject=Eject(), when_none="refuse", slow_start=30.0)


def test_checks() -> None:
    config = load_text(configured("check: {http: /health, host: a.example, interval: 1s}"), "f.yaml").upstreams["up"]
    assert rotation.checks(config) == EndpointCheck(http="/health", host="a.example", interval=1.0)
    config = load_text(configured("check: {}"), "f.yaml").upstreams["up"]
    assert rotation.checks(config) == EndpointCheck()
    config = load_text(configured("check: {deep: true}"), "f.yaml").upstreams["up"]
    assert rotation.checks(config) == EndpointCheck(deep="up")
    config = load_text(configured("check: {http: /, port: 15672}", "protocol: amqp,"), "f.yaml").upstreams["up"]
    assert rotation.checks(config) == EndpointCheck(http="/", port=15672)
    assert rotation.checks(load_text(configured(""), "f.yaml").upstreams["up"]) is None


def test_the_check_of_postgresql() -> None:
    keys = "check: {postgres: primary, interval: 1s, user: sidecar, password: a-secret, database: app}"
    config = load_text(configured(keys, "protocol: tcp,"), "f.yaml").upstreams["up"]
    assert rotation.checks(config) == EndpointCheck(postgres=Login("sidecar", "app", Secret("a-secret")), interval=1.0)
    assert "a-secret" not in text(effective(load_text(configured(keys, "protocol: tcp,"), "f.yaml")))
    # What does not accept writes is for nobody, unless somebody says so.
    assert config.health.when_none == "refuse"
    keys = "check: {postgres: primary}, when_none: use_all"
    config = load_text(configured(keys, "protocol: tcp,"), "f.yaml").upstreams["up"]
    assert rotation.checks(config) == EndpointCheck(postgres=Login("postgres", "postgres", Secret("")))
    assert config.health.when_none == "use_all"
    assert health_of("check: {tcp: true}").when_none == "use_all"


@pytest.mark.parametrize(
    "keys",
    [
        "",
        "check: {http: /h, fall: 1}",
        "check: {deep: true}",
        "when_none: refuse",
        "eject: {}",
        "eject: off",
        "eject: {for: 1s, at_most: 100%}, slow_start: 1m",
    ],
)
def test_it_is_shown_so_that_it_can_be_read_again(keys: str) -> None:
    config = load_text(configured(keys), "f.yaml")
    assert load_text(text(effective(config)), "g.yaml").upstreams["up"].health == config.upstreams["up"].health


@pytest.mark.parametrize(
    ("keys", "more", "path", "words"),
    [
        ("eject: {for: 10m}", "", "eject.for", "is above max_for"),
        ("eject: {latency: 3}", "protocol: amqp,", "eject.latency", "is not for protocol amqp"),
        ("eject: {error_rate: 10%}", "protocol: amqp,", "eject.error_rate", "is not for protocol amqp"),
        ("eject: {at_most: 150%}", "", "eject.at_most", "out of range"),
        ("eject: {for_: 1s}", "", "eject.for_", "is not a known key"),
        ("check: {http: /h, tcp: true}", "", "check", "several checks at once"),
        ("check: {deep: true, tcp: true}", "", "check", "several checks at once"),
        ("check: {host: a.example}", "", "check.host", "means nothing without http"),
        ("check: {http: /h}", "protocol: amqp,", "check.http", "needs a port"),
        ("check: {http: h}", "", "check.http", "is not allowed"),
        ("check: {postgres: primary, tcp: true}", "protocol: tcp,", "check", "several checks at once"),
        ("check: {postgres: primary}", "", "check.postgres", "is for ports that are relayed"),
        ("check: {postgres: standby}", "protocol: tcp,", "check.postgres", "is not one of the known words"),
        ("check: {user: a}", "protocol: tcp,", "check.user", "means nothing without postgres"),
        ("check: {password: a}", "protocol: tcp,", "check.password", "means nothing without postgres"),
        ("check: {interval: 0}", "", "check.interval", "out of range"),
        ("when_none: all", "", "when_none", "is not one of the known words"),
        ("slow_start: fast", "", "slow_start", "is not a duration"),
    ],
)
def test_mistakes_are_told(keys: str, more: str, path: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        health_of(keys, more)
    problems: Any = caught.value.problems
    assert [it.path for it in problems] == [f"upstreams.up.health.{path}"]
    assert words in problems[0].message
