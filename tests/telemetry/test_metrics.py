"""The metrics page, read back as a scraper does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sidecar import __version__
from sidecar.agent.admin import metrics
from sidecar.agent.lifecycle import Agent
from sidecar.config.traffic import Discover, Match
from sidecar.core.build import amqp_scanner, build, scanner
from sidecar.core.stats import BUCKETS, FilterStats
from sidecar.endpoints.endpoint import Endpoint
from sidecar.endpoints.metrics import MAX_ENDPOINTS
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from support.ports import route_of
from support.running import FakeRegistry, FakeRunning, FakeUpstream, running

#: The contract: names, and the labels of their samples.
CONTRACT = {
    "sidecar_requests_total": {"direction", "upstream", "method", "code"},
    "sidecar_request_duration_seconds_bucket": {"direction", "upstream", "le"},
    "sidecar_request_duration_seconds_count": {"direction", "upstream"},
    "sidecar_request_duration_seconds_sum": {"direction", "upstream"},
    "sidecar_requests_active": {"direction", "upstream"},
    "sidecar_retries_total": {"upstream", "reason"},
    "sidecar_rejected_total": {"direction", "upstream", "error"},
    "sidecar_circuit_breaker_state": {"upstream"},
    "sidecar_circuit_breaker_open_seconds": {"upstream"},
    "sidecar_endpoints": {"upstream", "state"},
    "sidecar_connections": {"direction", "upstream", "state"},
    "sidecar_bytes_total": {"direction", "upstream", "way"},
    "sidecar_concurrency_limit": {"upstream"},
    "sidecar_endpoint_requests_total": {"upstream", "endpoint"},
    "sidecar_endpoint_failures_total": {"upstream", "endpoint"},
    "sidecar_endpoint_seconds_total": {"upstream", "endpoint"},
    "sidecar_endpoint_active": {"upstream", "endpoint"},
    "sidecar_endpoint_ejected": {"upstream", "endpoint"},
    "sidecar_upstream_info": {"upstream", "service", "protocol", "balancer"},
    "sidecar_event_loop_lag_seconds_bucket": {"le"},
    "sidecar_registry_up": set(),
    "sidecar_registry_age_seconds": set(),
    "process_resident_memory_bytes": set(),
    "process_cpu_seconds_total": set(),
    "process_open_fds": set(),
    "process_max_fds": set(),
    "python_gc_collections_total": {"generation"},
}


class Page:
    """The samples of a page, by name and labels."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self.samples = [sample for family in families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        (found,) = [s.value for s in self.samples if s.name == name and s.labels == labels]
        return found

    def labels(self, name: str) -> list[dict[str, str]]:
        return [sample.labels for sample in self.samples if sample.name == name]


def page(of: FakeRunning) -> Page:
    return Page(parse_text(metrics(cast(Agent, of)).render("")[0].decode()))


def busy() -> FakeRunning:
    """Something in every metric."""
    it = running("ollama", registry=FakeRegistry(up=False, age=12.5), log_lines_dropped=4)
    it.inbound.tally("GET", 200).n += 7
    stats = it.upstreams["ollama"].stats
    stats.tally("POST", 503).n += 2
    stats.tally("POST", 2).n += 1
    stats.retries["connect"] += 3
    stats.rejected["circuit_open"] += 2
    stats.active, stats.pending, stats.limit = 6, 1, 20
    stats.bytes_in, stats.bytes_out = 100, 2000
    stats.client_connections, stats.upstream_active, stats.upstream_idle, stats.tunnels = 4, 3, 2, 1
    return it


@pytest.mark.parametrize("name", CONTRACT)
def test_names_and_labels_are_those_of_the_contract(name: str) -> None:
    found = page(busy()).labels(name)
    assert found
    assert all(set(labels) == CONTRACT[name] for labels in found)


def test_values() -> None:
    it = page(busy())
    out = {"direction": "outbound", "upstream": "ollama"}
    assert it("sidecar_requests_total", direction="inbound", upstream="tasks", method="GET", code="200") == 7
    assert it("sidecar_requests_total", **out, method="POST", code="503") == 2
    assert it("sidecar_retries_total", upstream="ollama", reason="connect") == 3
    assert it("sidecar_rejected_total", **out, error="circuit_open") == 2
    assert it("sidecar_requests_active", **out) == 6
    assert it("sidecar_requests_pending", **out) == 1
    assert it("sidecar_bytes_total", **out, way="in") == 100
    assert it("sidecar_bytes_total", **out, way="out") == 2000
    states = {"client": 4, "active": 3, "idle": 2, "tunnel": 1}
    assert {state: it("sidecar_connections", **out, state=state) for state in states} == states
    assert it("sidecar_registry_up") == 0
    assert it("sidecar_registry_age_seconds") == 12.5
    assert it("sidecar_log_lines_dropped_total") == 4
    assert it("sidecar_spans_sent_total") == 0
    assert it("sidecar_spans_dropped_total", reason="queue_full") == 0
    which = {"build": build(), "scanner": scanner(), "amqp_scanner": amqp_scanner()}
    assert it("sidecar_build_info", version=__version__, service="tasks", **which) == 1


def test_values_of_what_is_there_once_it_has_happened() -> None:
    it = busy()
    stats = it.upstreams["ollama"].stats
    stats.shed["low"] += 2
    stats.fallbacks[1] += 3
    stats.suppressed["budget"] += 4
    stats.hedges["won"] += 5
    stats.mirrored["answered"] += 6
    stats.faults["delay"] += 7
    stats.connect_failures["refused"] = 8
    stats.peer_errors["timeout"] += 9
    stats.cache["hit"] += 10
    stats.retry_budget = lambda: 11
    found, both = page(it), {"direction": "outbound", "upstream": "ollama"}
    assert found("sidecar_shed_total", **both, priority="low") == 2
    assert found("sidecar_fallbacks_total", upstream="ollama", step="1") == 3
    assert found("sidecar_retries_suppressed_total", upstream="ollama", reason="budget") == 4
    assert found("sidecar_hedges_total", upstream="ollama", outcome="won") == 5
    assert found("sidecar_mirrored_total", upstream="ollama", outcome="answered") == 6
    assert found("sidecar_faults_injected_total", upstream="ollama", kind="delay") == 7
    assert found("sidecar_connect_failures_total", **both, cause="refused") == 8
    assert found("sidecar_peer_errors_total", **both, error="timeout") == 9
    assert found("sidecar_cache_total", upstream="ollama", outcome="hit") == 10
    assert found("sidecar_retry_budget", upstream="ollama") == 11


def test_without_a_registry_nothing_is_said_about_one() -> None:
    assert not page(running()).labels("sidecar_registry_up")


@given(st.lists(st.floats(0, 100)))
def test_buckets_are_cumulated(values: list[float]) -> None:
    it = running()
    for value in values:
        it.inbound.duration.observe(value)
    found = page(it)
    labels = {"direction": "inbound", "upstream": "tasks"}
    for bound in BUCKETS:
        expected = sum(value <= bound for value in values)
        assert found("sidecar_request_duration_seconds_bucket", **labels, le=str(bound)) == expected
    assert found("sidecar_request_duration_seconds_bucket", **labels, le="+Inf") == len(values)
    assert found("sidecar_request_duration_seconds_count", **labels) == len(values)
    assert found("sidecar_request_duration_seconds_sum", **labels) == pytest.approx(sum(values))


def test_endpoints_by_state() -> None:
    it = running("ollama")
    first = it.upstreams["ollama"].endpoints[0]
    assert page(it)("sidecar_endpoints", upstream="ollama", state="healthy") == 1
    first.state = "warning"
    assert page(it)("sidecar_endpoints", upstream="ollama", state="warning") == 1
    first.ejected_until = 1e9
    found = page(it)
    counts = {"healthy": 0, "warning": 0, "ejected": 1}
    assert {state: found("sidecar_endpoints", upstream="ollama", state=state) for state in counts} == counts


def test_endpoints_that_are_beyond_the_bound_are_counted_together() -> None:
    it = running("ollama")
    many = [Endpoint("10.0.0.1", port) for port in range(1, MAX_ENDPOINTS + 4)]
    for n, endpoint in enumerate(many, 1):
        endpoint.tries, endpoint.failed, endpoint.active = n, 1, 2
        endpoint.ejected_until = 1e9 if n > MAX_ENDPOINTS + 1 else 0.0
    it.upstreams["ollama"].endpoints = many
    found = page(it)
    assert len(found.labels("sidecar_endpoint_requests_total")) == MAX_ENDPOINTS + 1
    first, other = ({"upstream": "ollama", "endpoint": name} for name in ("10.0.0.1:1", "other"))
    assert found("sidecar_endpoint_requests_total", **first) == 1
    assert found("sidecar_endpoint_requests_total", **other) == sum(range(MAX_ENDPOINTS + 1, MAX_ENDPOINTS + 4))
    assert [found(f"sidecar_endpoint_{name}", **first) for name in ("failures_total", "active", "ejected")] == [1, 2, 0]
    assert [found(f"sidecar_endpoint_{name}", **other) for name in ("failures_total", "active", "ejected")] == [3, 6, 2]


def test_an_upstream_says_which_service_it_is() -> None:
    it = running()
    it.upstreams["llm"] = FakeUpstream("llm", discover=Discover(service="ollama"))
    it.upstreams["redis"] = FakeUpstream("redis", protocol="tcp")
    info = {labels["upstream"]: labels for labels in page(it).labels("sidecar_upstream_info")}
    assert (info["llm"]["service"], info["llm"]["protocol"]) == ("ollama", "http")
    assert (info["redis"]["service"], info["redis"]["protocol"]) == ("", "tcp")


def test_of_several_breakers_the_worst_is_shown() -> None:
    it = running()
    upstream = FakeUpstream(
        "ollama", routes=(route_of(match=Match(path="/a"), circuit_breaker=CircuitBreakerSettings()),)
    )
    it.upstreams["ollama"] = upstream
    assert page(it)("sidecar_circuit_breaker_state", upstream="ollama") == 0
    upstream.breakers[1].force("open")
    upstream.clock.advance(31)
    found = page(it)
    assert found("sidecar_circuit_breaker_state", upstream="ollama") == 2
    assert found("sidecar_circuit_breaker_open_seconds", upstream="ollama") == 31


def test_a_breaker_that_is_off_has_no_state() -> None:
    it = running()
    it.upstreams["ollama"] = FakeUpstream("ollama", circuit_breaker=None)
    assert not page(it).labels("sidecar_circuit_breaker_state")


def test_a_service_may_have_the_name_of_an_upstream() -> None:
    it = running("tasks")
    it.inbound.retries["reset"] += 1
    it.upstreams["tasks"].stats.retries["reset"] += 2
    assert page(it)("sidecar_retries_total", upstream="tasks", reason="reset") == 3


def test_every_sample_is_unique() -> None:
    keys = [(s.name, tuple(sorted(s.labels.items()))) for s in page(busy()).samples]
    assert len(keys) == len(set(keys))


def test_openmetrics_where_it_is_asked_for() -> None:
    accept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1"
    body, content_type = metrics(cast(Agent, busy())).render(accept)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    found = Page(parse_openmetrics(body.decode()))  # type: ignore[no-untyped-call]  # a strict parser
    assert found("sidecar_retries_total", upstream="ollama", reason="connect") == 3


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/html", "text/plain; version=bogus", "text/plain;version=1.0.0; escaping=x", "\udcff;;,"]
)
def test_text_otherwise(accept: str) -> None:
    body, content_type = metrics(cast(Agent, busy())).render(accept)
    assert content_type.startswith("text/plain; version=0.0.4")
    assert list(parse_text(body.decode()))


@pytest.mark.parametrize("version", ["; version=bogus", ";version=", ""])
def test_an_odd_version_is_no_error(version: str) -> None:
    content_type = metrics(cast(Agent, busy())).render(f"application/openmetrics-text{version}")[1]
    assert content_type.startswith("application/openmetrics-text")


def test_two_sidecars_in_one_process_do_not_mix() -> None:
    first, second = busy(), running()
    metrics(cast(Agent, first))
    assert not page(second).labels("sidecar_retries_total")


def test_filters_also_when_they_are_no_longer_in_use() -> None:
    it = running("ollama")
    stats = it.upstreams["ollama"].stats
    stats.filters["mine"] = mine = FilterStats({"refused": "Refused."}, "sidecar_filter_")
    mine.counts["refused"] += 2
    assert not page(it).labels("sidecar_filter_failures_total")
    mine.failures["on_try"] = 3
    labels = {"direction": "outbound", "upstream": "ollama"}
    assert page(it)("sidecar_filter_mine_refused_total", **labels) == 2
    assert page(it)("sidecar_filter_failures_total", **labels, filter="mine", hook="on_try") == 3
