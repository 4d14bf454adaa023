"""The section redis, and limits that need it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.config.redis import RedisUrl
from sidecar.config.show import effective
from sidecar.core.address import Address
from support.configs import config_of, problem_of, problems_of

HEAD = "service: {name: tasks}\n"


def redis(text: str) -> Any:
    return config_of(f"{HEAD}redis: {{{text}}}\n").redis


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("redis://127.0.0.1:6379/0", RedisUrl((Address("127.0.0.1", 6379),))),
        ("redis://cache", RedisUrl((Address("cache", 6379),))),
        ("redis://cache/", RedisUrl((Address("cache", 6379),))),
        ("rediss://cache:1/15", RedisUrl((Address("cache", 1),), True, 15)),
        ("redis://[::1]", RedisUrl((Address("::1", 6379),))),
        ("redis://[::1]:7,b:8,c", RedisUrl((Address("::1", 7), Address("b", 8), Address("c", 6379)))),
    ],
)
def test_urls(text: str, url: RedisUrl) -> None:
    assert redis(f"url: '{text}'").url == url
    assert redis(f"url: '{url}'").url == url


@pytest.mark.parametrize(
    ("text", "message", "nearest"),
    [
        ("redis://:hunter2@cache", "has user info; user and password have keys of their own beside url", ""),
        ("cache:6379", "is not a URL", "redis://cache:6379"),
        ("reds://cache", "does not begin with a known scheme", "redis"),
        ("redis://", "has no host; for every address of this machine write 0.0.0.0", ""),
        ("redis://cache/x", "has no valid database: a number behind the slash", ""),
        ("redis://cache/0?password=hunter2", "is not a valid URL", ""),
        ("redis://a b", "is not a valid URL", ""),
        ("redis://a:0", "has no valid port", ""),
        ("redis://" + ",".join("a" * 17), "has more than 16 addresses", ""),
    ],
)
def test_urls_that_are_wrong(text: str, message: str, nearest: str) -> None:
    problem = problem_of(f"{HEAD}redis: {{url: '{text}'}}\n")
    assert (problem.path, problem.message) == ("redis.url", message)
    assert nearest in problem.nearest
    assert "hunter2" not in problem.text("x")


def test_defaults_and_all_of_it(tmp_path: Path) -> None:
    it = redis("url: 'redis://cache'")
    assert (it.timeout, it.on_failure, it.sentinel, it.sidecars) == (0.05, "local", "", 1)
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    config = config_of(
        HEAD
        + f"redis: {{url: 'rediss://a:1,b:2', sentinel: mymaster, user: tasks, password: {{file: {secret}}}, "
        + "ca: /ca.pem, timeout: 20ms, on_failure: refuse, sidecars: 8}\n"
    )
    assert config.redis is not None
    assert config.redis.password.reveal() == "hunter2"
    assert "hunter2" not in repr(config)
    assert effective(config)["redis"]["password"] == "***"
    assert effective(config)["redis"]["url"] == "rediss://a:1,b:2"


def test_what_happens_without_redis_is_one_of_three() -> None:
    problem = problem_of(f"{HEAD}redis: {{url: 'redis://a', on_failure: open}}\n")
    assert problem.allowed == "local, refuse or allow"


SHARED = "rate_limit: {rate: 1/s, shared: true}"


@pytest.mark.parametrize(
    ("port", "path"),
    [
        (f"bind: 127.0.0.1:1, {SHARED}", "upstreams.a.rate_limit.shared"),
        (f"bind: 127.0.0.1:1, protocol: tcp, {SHARED}", "upstreams.a.rate_limit.shared"),
        (f"bind: 127.0.0.1:1, routes: [{{match: {{path: /x}}, {SHARED}}}]", "upstreams.a.routes[0].rate_limit.shared"),
    ],
)
def test_shared_needs_redis(port: str, path: str) -> None:
    text = f"{HEAD}registry: directory:///run/mesh\nupstreams: {{a: {{{port}}}}}\n"
    problem = problem_of(text)
    assert problem.path == path
    assert problem.message == "needs Redis, in which such limits are kept"
    config_of(text + "redis: {url: 'redis://a'}\n")
    assert "redis.url" in {it.path for it in problems_of(text + "redis: {url: a}\n")}  # and nothing that follows


def test_others_do_not() -> None:
    config_of(f"{HEAD}registry: directory:///run/mesh\nupstreams: {{a: {{bind: '127.0.0.1:1', rate_limit: off}}}}\n")
