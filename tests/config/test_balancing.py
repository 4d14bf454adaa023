"""Keys about which endpoint gets the next request: what they mean, and what does not fit together."""

from __future__ import annotations

import pytest

from sidecar.config.balancing import BALANCERS, Hash
from sidecar.endpoints.balancers.table import NAMES
from support.configs import config_of, problem_of

A = "upstreams.a"


def upstream(text: str) -> str:
    return (
        "service: {name: tasks, app: 127.0.0.1:8080}\nregistry: directory:///run/mesh\n"
        f"upstreams: {{a: {{bind: 127.0.0.1:1000, {text}}}}}\n"
    )


def test_each_balancer_that_there_is_has_a_name() -> None:
    assert BALANCERS == NAMES


@pytest.mark.parametrize(
    ("by", "means"),
    [
        ("ip", "ip"),
        ("path", "path"),
        ("'header:X-Agent-Id'", "header:x-agent-id"),
        ("'cookie:Session'", "cookie:Session"),
        ("'query:User'", "query:User"),
    ],
)
def test_what_a_hash_is_made_of(by: str, means: str) -> None:
    config = config_of(upstream(f"balancer: consistent_hash, hash: {{by: {by}}}"))
    assert config.upstreams["a"].hash == Hash(by=means, balance_factor=1.25)


def test_a_bound_may_be_another_one_or_none() -> None:
    for text, factor in (("2", 2.0), ("1.05", 1.05), ("0", 0.0)):
        config = config_of(upstream(f"balancer: consistent_hash, hash: {{by: path, balance_factor: {text}}}"))
        found = config.upstreams["a"].hash
        assert found is not None
        assert found.balance_factor == factor
    assert config_of(upstream("balancer: consistent_hash")).upstreams["a"].hash is None


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("balancer: random, hash: {by: path}", "hash", "means nothing with balancer: random"),
        ("hash: {by: path}", "hash", "means nothing with balancer: round_robin"),
        ("balancer: consistent_hash, hash: {by: method}", "hash.by", "is nothing to hash by"),
        ("balancer: consistent_hash, hash: {by: 'cookie:'}", "hash.by", "is nothing to hash by"),
        ("balancer: consistent_hash, hash: {balance_factor: 1}", "hash.balance_factor", "is out of range"),
        ("balancer: peak_ewma, protocol: tcp", "balancer", "is not for protocol tcp: it goes by the time to an answer"),
        ("balancer: prequal, protocol: amqp", "balancer", "is not for protocol amqp"),
        (
            "balancer: consistent_hash, protocol: tcp, hash: {by: 'header:x'}",
            "hash.by",
            "is not for protocol tcp",
        ),
    ],
)
def test_what_does_not_fit(text: str, path: str, message: str) -> None:
    problem = problem_of(upstream(text))
    assert problem.path == f"{A}.{path}"
    assert problem.message.startswith(message)


def test_connections_hash_by_address() -> None:
    for protocol in ("tcp", "amqp"):
        config_of(upstream(f"balancer: consistent_hash, protocol: {protocol}, hash: {{by: ip}}"))
        config_of(upstream(f"balancer: consistent_hash, protocol: {protocol}"))
