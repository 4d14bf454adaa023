"""The section ``cache``: what it becomes, and what is said of mistakes."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.cache import CacheSettings
from sidecar.core.identity import IDENTITY
from support.configs import config_of, problem_of

_BASE = "service: {name: a}\nupstreams:\n  up: {bind: 127.0.0.1:9000, endpoints: ['127.0.0.1:1'], cache: %s}\n"


def read(section: str) -> Any:
    return config_of(_BASE % section).upstreams["up"].policies["cache"]


def test_defaults() -> None:
    it = read("{}")
    assert it == CacheSettings()
    assert (it.methods, it.ttl, it.max_bytes, it.key, it.identity) == ({"GET"}, 0.0, 64 << 20, "target", IDENTITY)
    assert read("off") is None


def test_the_keys_of_the_contract() -> None:
    it = read("{methods: [GET], ttl: 5m, max_bytes: 64MiB, key: target}")
    assert (it.ttl, it.max_bytes) == (300.0, 64 << 20)


def test_bodies_have_defaults_of_their_own() -> None:
    it = read("{key: json}")
    assert (it.methods, it.ttl, it.when) == ({"POST"}, 300.0, {"temperature": 0})
    it = read('{key: json, methods: [get, query], ttl: 0, when: {a.b: true, c: x, d: 0.5, e: "1", f: -2}}')
    assert (it.methods, it.ttl) == ({"GET", "QUERY"}, 0.0)
    assert it.when == {"a.b": True, "c": "x", "d": 0.5, "e": "1", "f": -2}


@pytest.mark.parametrize(("section", "path", "said"), [
    ("{methods: [POST]}", "methods", "has a body, by which requests are told apart"),
    ("{methods: [GET, DELETE]}", "methods", "changes something, so that its answers are not kept"),
    ("{key: json, methods: [GET]}", "methods", "have no body, which key json goes by"),
    ("{max_body: 2MiB, max_bytes: 1MiB}", "max_body", "there is no room for one such answer"),
    ("{max_bytes: 64KiB}", "max_bytes", "there is no room for one such answer"),
    ("{when: {a: 1}}", "when", "is about JSON bodies"),
    ("{key: jsn}", "key", "is not one of the known words"),
    ("{ttl: soon}", "ttl", "is not a duration"),
    ("{maxbytes: 1MiB}", "maxbytes", "is not a known key"),
    ("{authorised: always}", "authorised", "is not one of the known words"),
])  # fmt: skip
def test_mistakes(section: str, path: str, said: str) -> None:
    problem = problem_of(_BASE % section)
    assert problem.path == f"upstreams.up.cache.{path}"
    assert said in problem.message


def test_it_is_for_http_only() -> None:
    assert problem_of((_BASE % "{}").replace("bind:", "protocol: tcp, bind:")).path == "upstreams.up.cache"
