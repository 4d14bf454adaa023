"""Routes: globs, order, and what matching costs."""

from __future__ import annotations

import fnmatch
import random
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.traffic import Match, Route
from sidecar.endpoints.balancers.table import create
from sidecar.endpoints.cluster import Cluster
from sidecar.exchange.filter import Chain
from sidecar.exchange.routes import Route as Target
from sidecar.exchange.routes import Routes, glob, normal
from sidecar.exchange.times import Times
from sidecar.filters.rate_limit import RateLimitSettings
from sidecar.http.h1.blocks import RequestBlock
from support.clock import Clock
from support.http import request
from support.live import ANY_PORT, Live, Origin, fetch, run
from support.ports import inbound_of, route_of


def routes(*matches: Match) -> Routes:
    """Routes to clusters whose name is their number."""
    chain, rng = Chain((), Times(1.0, 30.0, 300.0, 0.0, 10.0, 4.0), 1.0), random.Random(1)
    clusters = [Cluster(str(n), create("round_robin", rng), Clock(), rng) for n in range(len(matches))]
    return Routes([(match, Target(chain, cluster)) for match, cluster in zip(matches, clusters, strict=True)])


def found(table: Routes, line: str, *fields: str) -> int | None:
    return number(table, request(f"{line} HTTP/1.1", *fields))


def number(table: Routes, head: RequestBlock) -> int | None:
    route = table.match(head)
    return None if route is None else int(route.cluster.name)


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [
        ("/a", "/a", True),
        ("/a", "/ab", False),
        ("/a/*", "/a/b/c", True),
        ("/a/*", "/a", False),
        ("/a/*", "/A/b", False),
        ("*", "", True),
        ("*.json", "/x/y.json", True),
        ("/a?c", "/abc", True),
        ("/a?c", "/ac", False),
        ("/*/x/*", "/a/b/x/", True),
        ("/*/x", "/a/x/x", True),
        ("/a.c", "/abc", False),
        ("/[a]*", "/[a]b", True),
        ("/[a]*", "/ab", False),
        ("a**b", "ab", True),
        ("*a*", "bab", True),
        ("??", "a", False),
    ],
)
def test_globs(pattern: str, value: str, matches: bool) -> None:
    assert bool(glob(pattern)(value.encode())) is matches


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=12))
def test_globs_agree_with_the_standard_librarys(pattern: str, value: str) -> None:
    expected = re.fullmatch(fnmatch.translate(pattern), value) is not None
    assert bool(glob(pattern)(value.encode())) is expected


def test_no_target_makes_matching_slow() -> None:
    on_path = glob("/*/a/*/a/*/a/*/a/*/a/*/b")
    hostile = b"/" + b"/a" * 4000
    started = time.process_time()
    assert not on_path(hostile)
    assert time.process_time() - started < 0.5  # backtracking would take years


def test_the_first_match_wins() -> None:
    table = routes(Match(path="/a/b"), Match(path="/a/*"), Match())
    assert [found(table, f"GET {path}") for path in ("/a/b", "/a/c", "/d")] == [0, 1, 2]
    assert found(routes(Match(path="/a/*"), Match(path="/a/b")), "GET /a/b") == 0


def test_all_parts_must_match() -> None:
    table = routes(Match(path="/a/*", methods=("POST", "PUT"), headers={"x-priority": "low", "x-agent": "a*"}))
    assert found(table, "POST /a/b", "X-Priority: low", "x-agent: abc") == 0
    assert found(table, "GET /a/b", "X-Priority: low", "x-agent: abc") is None
    assert found(table, "POST /b", "X-Priority: low", "x-agent: abc") is None
    assert found(table, "POST /a/b", "X-Priority: high", "x-agent: abc") is None
    assert found(table, "POST /a/b", "X-Priority: low") is None


def test_the_path_is_taken_without_its_query() -> None:
    table = routes(Match(path="/a b"), Match(path="/a%20b"), Match(path="/q"), Match(path="/abs"))
    assert found(table, "GET /a%20b") == 1
    assert found(table, "GET /q?/a") == 2
    assert found(table, "GET http://t/abs?x") == 3


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/%6cogin", "/login"),
        ("/%6Cogin%2f%7e", "/login%2F~"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%252e", "/a%252e"),
        ("/a/./b/../login", "/a/login"),
        ("/%2e%2e/%2E/login", "/login"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/..", "/"),
        ("/.hidden/..a/...", "/.hidden/..a/..."),
        ("//a/../b", "//b"),
        ("/a%", "/a%"),
        ("/%zz", "/%zz"),
        ("*", "*"),
    ],
)
def test_the_form_of_a_path_that_routes_see(path: str, form: str) -> None:
    assert normal(path.encode()).decode() == form


@given(st.text("/.%2eEfFa", max_size=20).map(lambda text: f"/{text}".encode()))
def test_the_normal_form_is_its_own_normal_form_but_for_what_decoding_uncovers(path: bytes) -> None:
    form = normal(path)
    assert form.startswith(b"/")
    assert not {b".", b".."} & set(form.split(b"/"))


def test_no_way_of_writing_a_path_misses_its_route() -> None:
    table = routes(Match(path="/login"), Match(path="/a%2fb"), Match(path="/admin/*"))
    for path in ("/login", "/%6cogin", "/x/../login", "/x/%2e%2E/%6Cogin?y"):
        assert found(table, f"GET {path}") == 0
    assert found(table, "GET /a%2Fb") == found(table, "GET /a%2fb") == 1
    assert found(table, "GET /public/%2e./admin/x") == 2
    assert found(table, "GET /admin/../x") is None
    head = request("GET /x/../%6cogin HTTP/1.1")
    table.match(head)
    assert head.target == b"/x/../%6cogin"
    assert head.raw.startswith(b"GET /x/../%6cogin HTTP/1.1\r\n")


def test_no_routes() -> None:
    assert found(routes(), "GET /") is None


def test_a_match_takes_about_a_microsecond() -> None:
    table = routes(
        *(Match(path=f"/api/v1/{name}/*", methods=("GET", "POST")) for name in ("users", "tasks", "agents", "models"))
    )
    head = request("POST /api/v1/models/7?verbose=1 HTTP/1.1")
    assert number(table, head) == 3
    best = 1.0
    for _ in range(20):
        started = time.process_time()
        for _ in range(200):
            table.match(head)
        best = min(best, (time.process_time() - started) / 200)
    assert best < 20e-6  # a wide margin for busy machines; alone it is about 1 µs


def test_policies_of_a_route_replace_those_of_the_listener() -> None:
    async def main() -> None:
        config = inbound_of(
            bind=ANY_PORT,
            rate_limit=RateLimitSettings(rate=1.0, burst=2),
            routes=(
                route_of(match=Match(path="/own"), rate_limit=RateLimitSettings(rate=1.0, burst=1)),
                route_of(match=Match(path="/off"), rate_limit=None),
                Route(match=Match(path="/shared", headers={"x-a": "b"})),
            ),
        )
        async with Origin() as origin, Live(config, origin.port) as live:
            assert [(await fetch(live.port, "/own")).status for _ in range(2)] == [200, 429]
            assert [(await fetch(live.port, "/off")).status for _ in range(5)] == [200] * 5
            assert (await fetch(live.port, "/x")).status == 200
            assert [(await fetch(live.port, "/shared", fields=["x-a: b"])).status for _ in range(2)] == [200, 429]
            assert (await fetch(live.port, "/x")).status == 429  # one bucket for both

    run(main)
