"""Who may do what."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.admin.auth import Access, Refused, check
from sidecar.admin.request import Fields
from sidecar.core.proof import proof
from sidecar.core.secret import NO_SECRET, Secret

LOCAL = Access("127.0.0.1")
LOCAL_TOKEN = Access("127.0.0.1", Secret("tökén"))
OPEN = Access("0.0.0.0", Secret("tökén"))
HERE = "127.0.0.1:15000"


def status(access: Access, method: str, path: str, *headers: tuple[str, str]) -> int:
    """200, or that of the refusal."""
    try:
        check(access, method, path, Fields(headers))
    except Refused as refused:
        return refused.status
    return 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1:15000", "127.0.0.1", "localhost", "LocalHost:15000", "[::1]:15000", "localhost.", "127.1.2.3:1"]
)
def test_names_of_this_host(host: str) -> None:
    assert status(LOCAL, "GET", "/health", ("Host", host)) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:15000", "10.0.0.1", "", "[::1", "localhost:x", "a@localhost", "evil/@localhost",
     "localhost.evil.example", "127.0.0.1.evil.example", "[127.0.0.1", " localhost"],
)  # fmt: skip
def test_other_names_are_refused_on_loopback(host: str) -> None:
    assert status(LOCAL, "GET", "/health", ("Host", host)) == 421
    assert status(OPEN, "GET", "/health", ("Host", host)) == 200


def test_the_bound_name_is_a_name_of_this_host() -> None:
    access = Access("::1")
    assert status(access, "GET", "/", ("Host", "[::1]:15000")) == 200


def test_two_hosts_are_refused_and_none_is_fine() -> None:
    assert status(LOCAL, "GET", "/", ("Host", HERE), ("Host", HERE)) == 421
    assert status(LOCAL, "GET", "/") == 200


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://127.0.0.1:15000", 200),
        ("https://127.0.0.1:15000", 200),
        ("http://127.0.0.1:3000", 403),
        ("http://127.0.0.1", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://[::1", 403),
    ],
)
def test_pages_of_other_sites_change_nothing(origin: str, expected: int) -> None:
    headers = ("Host", HERE), ("Origin", origin)
    assert status(LOCAL, "POST", "/drain", *headers) == expected
    assert status(LOCAL, "PUT", "/log-level", *headers) == expected
    assert status(LOCAL, "GET", "/health", *headers) == 200


def test_an_origin_without_a_host_is_another_site() -> None:
    assert status(LOCAL, "POST", "/drain", ("Origin", "http://127.0.0.1:15000")) == 403


@pytest.mark.parametrize("access", [LOCAL_TOKEN, OPEN])
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], 401),
        ([("Authorization", "Bearer tökén")], 200),
        ([("Authorization", "bearer  tökén ")], 200),
        ([("X-Sidecar-Token", "tökén")], 200),
        ([("Authorization", "Bearer of another"), ("X-Sidecar-Token", "tökén")], 200),
        ([("Authorization", "Basic tökén")], 401),
        ([("Authorization", "Bearer")], 401),
        ([("Authorization", "Bearer tökénn")], 401),
        ([("X-Sidecar-Token", "\udcff")], 401),
        ([("X-Sidecar-Token", "")], 401),
    ],
)
def test_changes_need_the_token(access: Access, headers: list[tuple[str, str]], expected: int) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert status(access, method, "/drain", ("Host", HERE), *headers) == expected
    for path in ("/health", "/metrics", "/upstreams", "/ready"):
        assert status(access, "GET", path, ("Host", HERE), *headers) == 200


def test_the_configuration_is_for_holders_of_the_token_where_others_can_connect() -> None:
    assert status(LOCAL_TOKEN, "GET", "/config", ("Host", HERE)) == 200
    assert status(OPEN, "GET", "/config") == 401
    assert status(OPEN, "HEAD", "/config") == 401
    assert status(OPEN, "GET", "/config", ("X-Sidecar-Token", "tökén")) == 200


@pytest.mark.parametrize("path", ["/amqp/rabbitmq/dead-letters", "/amqp/a/dead-letters/17", "/amqp/a/b/dead-letters/x"])
def test_what_clients_have_published_is_for_holders_of_the_token(path: str) -> None:
    for access in (LOCAL_TOKEN, OPEN):
        assert status(access, "GET", path, ("Host", HERE)) == 401
        assert status(access, "HEAD", path, ("Host", HERE)) == 401
        assert status(access, "GET", path, ("Host", HERE), ("X-Sidecar-Token", "tökén")) == 200
    assert status(LOCAL, "GET", path, ("Host", HERE)) == 200
    assert status(LOCAL_TOKEN, "GET", "/amqp/rabbitmq/spool", ("Host", HERE)) == 200


def test_without_a_token_nothing_changes_from_outside() -> None:
    access = Access("0.0.0.0", NO_SECRET)
    assert status(access, "POST", "/drain") == 403
    assert status(access, "GET", "/health") == 200


@given(st.lists(st.tuples(st.sampled_from(["Host", "Origin", "Authorization", "X-Sidecar-Token"]), st.text())))
def test_nothing_else_than_refused_is_raised(headers: list[tuple[str, str]]) -> None:
    for access in (LOCAL, LOCAL_TOKEN, OPEN):
        status(access, "POST", "/drain", *headers)


def test_a_proof_of_the_token_opens_what_sidecars_ask_each_other() -> None:
    now = time.time()
    good = proof("tökén", "GET", "/why/a b", now)
    assert status(OPEN, "GET", "/why/a b", ("Authorization", good)) == 200
    assert status(OPEN, "GET", "/why/other", ("Authorization", good)) == 401
    for path, answer in (("/mesh/self", 200), ("/mesh", 401)):
        assert status(OPEN, "GET", path, ("Authorization", proof("tökén", "GET", path, now))) == answer
    assert status(OPEN, "GET", "/why/a b", ("Authorization", proof("tökén", "GET", "/why/a b", now - 120))) == 401
    assert status(OPEN, "GET", "/why/a b", ("Authorization", proof("other", "GET", "/why/a b", now))) == 401
    for method, path in (("GET", "/why"), ("GET", "/config"), ("POST", "/drain"), ("POST", "/why/a b")):
        assert status(OPEN, method, path, ("Authorization", proof("tökén", method, path, now))) == 401
    assert status(OPEN, "GET", "/why/a b") == 401
