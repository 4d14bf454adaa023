"""Who may be loaded, and what passes."""

from __future__ import annotations

import pytest

from loadtest.criteria import ALLOW, Criteria, Outcome, RefusedHost, require_allowed


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9000", "http://127.8.9.1", "http://localhost:80/x", "http://[::1]:9000", "https://LOCALHOST"],
)
def test_loopback_may_be_loaded(url: str) -> None:
    require_allowed(url, {})


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.7:9000",
        "http://example.com",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://127.0.0.1@example.com/",
        "http://0.0.0.0:9000",
        "http://[::]:9000",
    ],
)
def test_other_hosts_are_refused_unless_named(url: str) -> None:
    with pytest.raises(RefusedHost, match=ALLOW) as refusal:
        require_allowed(url, {ALLOW: "staging.example.com"})
    name = str(refusal.value).rpartition("=")[2]
    require_allowed(url, {ALLOW: name})


@pytest.mark.parametrize("url", [None, "", "127.0.0.1:9000", "http://", "http://[::1"])
def test_no_host_is_refused_with_the_way_to_name_one(url: str | None) -> None:
    with pytest.raises(RefusedHost, match="--host"):
        require_allowed(url, {})


BURST = Criteria(p99=500, requests=1000, within=10)


def test_what_is_just_good_enough_passes() -> None:
    assert BURST.misses(Outcome(requests=1000, failures=10, seconds=10.0, p99=500)) == []
    assert Criteria(p99=500, rate=100).misses(Outcome(requests=1000, failures=0, seconds=10.0, p99=3)) == []


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (Outcome(requests=1000, failures=11, seconds=1.0, p99=3), "error rate 1.10%"),
        (Outcome(requests=1000, failures=0, seconds=1.0, p99=501), "p99 501 ms"),
        (Outcome(requests=999, failures=0, seconds=1.0, p99=3), "999 requests"),
        (Outcome(requests=1000, failures=0, seconds=10.2, p99=3), "took 10.2 s"),
    ],
)
def test_each_criterion_misses_by_itself(outcome: Outcome, word: str) -> None:
    (miss,) = BURST.misses(outcome)
    assert word in miss


def test_a_rate_that_is_too_low_is_missed() -> None:
    (miss,) = Criteria(p99=500, rate=95).misses(Outcome(requests=940, failures=0, seconds=10.0, p99=3))
    assert "94.0 requests/s" in miss


def test_no_request_at_all_never_passes() -> None:
    assert Criteria(p99=500).misses(Outcome(requests=0, failures=0, seconds=0.0, p99=0))
