"""The rules of the contract, each broken once."""

from __future__ import annotations

import pytest

from sidecar.config.agent import Probes
from sidecar.config.traffic import Discover
from sidecar.core.address import Address
from support.configs import config_of, problem_of, problems_of

HEAD = "service: {name: tasks, app: 127.0.0.1:8080}\nregistry: directory:///run/mesh\n"


def upstream(text: str, name: str = "a", bind: str = "127.0.0.1:1000") -> str:
    return HEAD + f"upstreams: {{{name}: {{bind: '{bind}', {text}}}}}\n"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("127.0.0.1:1000", "127.0.0.1:1000"),
        ("0.0.0.0:1000", "127.0.0.1:1000"),
        ("127.0.0.1:1000", "0.0.0.0:1000"),
        ("[::]:1000", "127.0.0.1:1000"),
        ("[::]:1000", "0.0.0.0:1000"),
        ("localhost:1000", "0.0.0.0:1000"),
        ("[::]:1000", "localhost:1000"),
        ("localhost:1000", "127.0.0.1:1000"),
        ("localhost:1000", "[::1]:1000"),
        ("[::1]:1000", "[0:0:0:0:0:0:0:1]:1000"),
        ("Tasks.local:1000", "tasks.local:1000"),
    ],
)
def test_two_listeners_on_one_port(one: str, other: str) -> None:
    problem = problem_of(HEAD + f"upstreams:\n  a: {{bind: '{one}'}}\n  b: {{bind: '{other}'}}\n")
    assert problem.path == "upstreams.b.bind"
    assert problem.message == "is the same port as upstreams.a.bind"
    assert problem.line == 5
    assert one in problem.found
    assert other in problem.found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("0.0.0.0:0", "127.0.0.1:0"),
        ("127.0.0.1:1000", "127.0.0.2:1000"),
        ("127.0.0.1:1000", "[::1]:1000"),
        ("0.0.0.0:1000", "127.0.0.1:1001"),
        ("0.0.0.0:1000", "[::1]:1000"),
        ("[fd00::1]:1000", "0.0.0.0:1000"),
    ],
)
def test_listeners_that_get_along(one: str, other: str) -> None:
    config_of(HEAD + f"upstreams:\n  a: {{bind: '{one}'}}\n  b: {{bind: '{other}'}}\n")


def test_inbound_and_admin_are_listeners_too() -> None:
    assert problem_of(HEAD + "inbound: {bind: 0.0.0.0:1}\nadmin: {bind: 127.0.0.1:1}").path == "admin.bind"
    # The default of admin.bind has no line of its own, so the other one is shown.
    problem = problem_of(HEAD + "inbound: {bind: 0.0.0.0:15000}")
    assert (problem.path, problem.message) == ("inbound.bind", "is the same port as admin.bind")
    problem = problem_of(HEAD + "inbound: {bind: 0.0.0.0:15000}\nadmin: {token: x}")
    assert problem.path == "inbound.bind"


def test_the_listener_for_machines_is_one_too() -> None:
    problem = problem_of(HEAD + "inbound: {bind: 0.0.0.0:1}\nprobes: {bind: 127.0.0.1:1}")
    assert (problem.path, problem.message) == ("probes.bind", "is the same port as inbound.bind")
    assert problem_of(HEAD + "probes: {bind: 127.0.0.1:15000}").path == "probes.bind"
    assert problem_of(HEAD + "probes: {}").path == "probes.bind"
    assert problem_of(HEAD + "probes: 0.0.0.0:15020").path == "probes"
    assert config_of(HEAD + "probes: {bind: 0.0.0.0:15020}").probes == Probes(bind=Address("0.0.0.0", 15020))
    assert config_of(HEAD).probes is None


def test_a_conflict_is_found_even_if_a_listener_has_other_problems() -> None:
    text = HEAD + "upstreams:\n  a: {bind: 127.0.0.1:1, retri: off}\n  b: {bind: 127.0.0.1:1}\n"
    assert [problem.path for problem in problems_of(text)] == ["upstreams.a.retri", "upstreams.b.bind"]


def test_the_sidecar_does_not_dial_itself() -> None:
    problem = problem_of(HEAD + "inbound: {bind: 0.0.0.0:8080}")
    assert problem.path == "service.app"
    assert "inbound.bind" in problem.message
    assert problem_of(upstream("endpoints: ['127.0.0.1:1000']")).path == "upstreams.a.endpoints[0]"
    assert problem_of(upstream("endpoints: ['localhost:1000']", bind="0.0.0.0:1000")).path == "upstreams.a.endpoints[0]"
    config_of(upstream("endpoints: ['10.0.0.7:1000']", bind="0.0.0.0:1000"))
    one, other = "a: {bind: '127.0.0.1:1000'}", "b: {bind: '127.0.0.1:1001', endpoints: ['127.0.0.1:1000']}"
    problem = problem_of(HEAD + f"upstreams:\n  {one}\n  {other}\n")
    assert (problem.path, problem.message) == (
        "upstreams.b.endpoints[0]", "is upstreams.a's own bind: the sidecar would dial itself"
    )  # fmt: skip
    # Behind inbound is the app, which may call itself.
    config_of(
        HEAD
        + "inbound: {bind: '127.0.0.1:1001'}\nupstreams: {a: {bind: '127.0.0.1:1000', endpoints: ['127.0.0.1:1001']}}"
    )
    config_of(HEAD + "inbound: {bind: 10.0.0.5:8080}")


def test_inbound_needs_an_app() -> None:
    problem = problem_of("service: {name: a}\ninbound: {bind: 0.0.0.0:1}")
    assert problem.path == "service.app"
    assert problem.allowed
    config_of("service: {name: a}")


def test_an_upstream_has_one_source_of_endpoints() -> None:
    problem = problem_of(upstream("discover: {service: x}, endpoints: ['b:1']"))
    assert (problem.path, problem.found) == ("upstreams.a", "discover and endpoints")
    assert problem_of(upstream("endpoints: []")).path == "upstreams.a.endpoints"


def test_discovery_needs_a_registry() -> None:
    problem = problem_of("service: {name: a}\nupstreams: {b: {bind: 'c:1', discover: {service: d}}}")
    assert (problem.path, problem.found) == ("upstreams.b.discover", "registry: none")
    assert problem_of("service: {name: a}\nupstreams: {b: {bind: 'c:1'}}").path == "upstreams.b"
    # A registry that cannot be read is one problem, not two.
    text = "service: {name: a}\nregistry: etcd://e\nupstreams: {b: {bind: 'c:1', discover: {service: d}}}"
    assert problem_of(text).path == "registry"


def test_no_endpoint_twice() -> None:
    problem = problem_of(upstream("endpoints: ['b:1', {address: 'b:1', weight: 2}]"))
    assert problem.path == "upstreams.a.endpoints[1].address"


@pytest.mark.parametrize("weight", ["0", "-1", "65536", "1.5", "true", "'3'"])
def test_weights_are_above_zero(weight: str) -> None:
    problem = problem_of(upstream(f"endpoints: [{{address: 'b:1', weight: {weight}}}]"))
    assert problem.path == "upstreams.a.endpoints[0].weight"
    assert problem_of(f"service: {{name: a, weights: {{passing: {weight}}}}}").path == "service.weights.passing"


def test_delays_are_in_order() -> None:
    assert problem_of(upstream("retry: {initial_delay: 2, max_delay: 1}")).path == "upstreams.a.retry"
    assert problem_of(upstream("retry: {initial_delay: 31}")).path == "upstreams.a.retry"
    assert problem_of(upstream("retry: {max_delay: 500ms}")).path == "upstreams.a.retry"
    problem = problem_of(upstream("routes: [{match: {}, retry: {max_delay: 500ms}}]"))
    assert problem.path == "upstreams.a.routes[0].retry"
    # An unreadable delay is one problem, not two.
    assert problem_of(upstream("retry: {initial_delay: x, max_delay: 1ms}")).path == "upstreams.a.retry.initial_delay"


def test_admin_beyond_loopback_needs_a_token() -> None:
    base = "service: {name: a}\n"
    for bind in ("0.0.0.0:15000", "10.0.0.1:15000", "admin.local:1", "'[::]:1'"):
        problem = problem_of(base + f"admin: {{bind: {bind}}}")
        assert problem.path == "admin.token"
        assert problem_of(base + f"admin: {{bind: {bind}, token: '${{T:-}}'}}").path == "admin.token"
        config_of(base + f"admin: {{bind: {bind}, token: secret}}")
    for bind in ("127.0.0.1:1", "localhost:1", "'[::1]:1'"):
        config_of(base + f"admin: {{bind: {bind}}}")


def test_checks() -> None:
    base = "service: {name: a, check: {%s}}\nregistry: consul://c:1\n"
    assert problem_of(base % "http: health").path == "service.check.http"
    assert problem_of(base % "http: /h, tcp: true").path == "service.check"
    problem = problem_of(base % "grpc: true")
    assert problem.message == "is not supported by this version; supported: http, tcp"
    problem = problem_of(base % "deregister_critical_service_after: 30s")
    assert (problem.path, problem.found) == ("service.check.deregister_critical_service_after", "30 s")
    config_of("service: {name: a, check: {tcp: true, deregister_critical_service_after: 30s}}")


def test_target_is_part_of_the_head() -> None:
    assert problem_of(upstream("limits: {target: 128KiB}")).path == "upstreams.a.limits.target"
    config_of(upstream("limits: {target: 128KiB, head: 128KiB}"))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("protocol: grpc", "protocol"),
    ],
)
def test_what_is_not_built_is_refused_as_such(text: str, path: str) -> None:
    problem = problem_of(upstream(text))
    assert problem.path == f"upstreams.a.{path}"
    assert problem.message.startswith("is not supported by this version")


def test_inbound_has_no_breaker_and_no_retry() -> None:
    for key in ("circuit_breaker", "retry"):
        for value in ("off", "{}"):
            problem = problem_of(HEAD + f"inbound: {{bind: 0.0.0.0:1, {key}: {value}}}")
            assert problem.path == f"inbound.{key}"
            assert "upstreams only" in problem.message
            problem = problem_of(HEAD + f"inbound: {{bind: 0.0.0.0:1, routes: [{{match: {{}}, {key}: {value}}}]}}")
            assert problem.path == f"inbound.routes[0].{key}"
    assert problem_of(HEAD + "inbound: {bind: 0.0.0.0:1, protocol: grpc}").path == "inbound.protocol"
    problem = problem_of(HEAD + "inbound: {bind: 0.0.0.0:1, protocol: amqp}")
    assert problem.path == "inbound.protocol"
    assert problem.message.startswith("is for upstreams")
    assert problem_of(HEAD + "inbound: {bind: 0.0.0.0:1, balancer: random}").message == "is not a known key"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("routes: [{match: {path: /x}}]", "routes"),
        ("timeout: {request: 1s}", "timeout.request"),
        ("timeout: {head: 1s}", "timeout.head"),
        ("timeout: {keepalive: 1s}", "timeout.keepalive"),
        ("limits: {head: 1KiB}", "limits.head"),
        ("limits: {headers: 5}", "limits.headers"),
        ("limits: {target: 1KiB}", "limits.target"),
        ("limits: {body: 1KiB}", "limits.body"),
        ("rate_limit: {rate: 1/s, key: path}", "rate_limit.key"),
        ("rate_limit: {rate: 1/s, key: 'header:x'}", "rate_limit.key"),
    ],
)
def test_what_tcp_has_not(text: str, path: str) -> None:
    problem = problem_of(upstream(f"protocol: tcp, {text}"))
    assert (problem.path, problem.message) == (f"upstreams.a.{path}", "is not for protocol tcp")
    problem = problem_of(HEAD + f"inbound: {{bind: 0.0.0.0:1, protocol: tcp, {text}}}")
    assert (problem.path, problem.message) == (f"inbound.{path}", "is not for protocol tcp")


@pytest.mark.parametrize("text", ["retry: {on: [connect]}", "retry: {methods: [GET]}"])
def test_what_tcp_retries_have_not(text: str) -> None:
    assert problem_of(upstream(f"protocol: tcp, {text}")).message == "is not for protocol tcp"


def test_what_tcp_has() -> None:
    config_of(
        upstream(
            "protocol: tcp, balancer: ip_hash, timeout: {connect: 1, idle: 2, total: 3},"
            "circuit_breaker: {failure_threshold: 1, failure_on: [connect]},"
            "retry: {max_attempts: 2, initial_delay: 1, max_delay: 2, jitter: false, backoff_type: linear},"
            "bulkhead: {max_connections: 5, max_requests: 5},"
            "rate_limit: {rate: 5/s, key: ip}, limits: {connections: 10}"
        )
    )


def test_a_route_cannot_change_what_comes_before_it() -> None:
    for key in ("head", "keepalive"):
        problem = problem_of(upstream(f"routes: [{{match: {{}}, timeout: {{{key}: 1s}}}}]"))
        assert problem.path == f"upstreams.a.routes[0].timeout.{key}"
        assert "is not for a route" in problem.message
    assert problem_of(upstream("routes: [{retry: off}]")).path == "upstreams.a.routes[0].match"
    assert problem_of(upstream("routes: [{match: {path: api}}]")).path == "upstreams.a.routes[0].match.path"


@pytest.mark.parametrize("name", ["a/b", "a b", "", ".hidden", "..", "é", "a" * 129, "a:b"])
def test_names(name: str) -> None:
    assert problem_of(f"service: {{name: '{name}'}}").path == "service.name"
    assert problem_of(upstream("retry: off", name=f"'{name}'")).message == "is not a valid name here"
    assert problem_of(upstream(f"discover: {{service: '{name}'}}")).path == "upstreams.a.discover.service"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("match: {methods: [G ET]}", "match.methods[0]"),
        ("match: {headers: {'x y': a}}", 'match.headers."x y"'),
        ("match: {headers: {x: 1}}", "match.headers.x"),
        ("match: {headers: {X-A: a, x-a: b}}", "match.headers.x-a"),
        ("match: {}, retry: {on: [600]}", "retry.on[0]"),
        ("match: {}, retry: {on: []}", "retry.on"),
        ("match: {}, circuit_breaker: {failure_on: [teapot]}", "circuit_breaker.failure_on[0]"),
        ("match: {}, retry: {max_attempts: 0}", "retry.max_attempts"),
        ("match: {}, rate_limit: {burst: 3}", "rate_limit.rate"),
        ("match: {}, timeout: off", "timeout"),
        ("match: {}, bulkhead: on", "bulkhead"),
        ("match: {}, bulkhead: ~", "bulkhead"),
    ],
)
def test_bad_routes(text: str, path: str) -> None:
    assert problem_of(upstream(f"routes: [{{{text}}}]")).path == f"upstreams.a.routes[0].{path}"


@pytest.mark.parametrize(
    ("text", "path", "told"),
    [
        ("discover: {sentinel: m}", "discover.sentinel", "takes at beside it"),
        ("discover: {at: ['a:1']}", "discover.at", "takes sentinel beside it"),
        ("discover: {sentinel: m, at: ['a:1'], service: x}", "discover.service", "is not for a master"),
        ("discover: {sentinel: m, at: ['a:1'], tag: x}", "discover.tag", "is not for a master"),
    ],
)
def test_a_master_is_a_name_and_sentinels(text: str, path: str, told: str) -> None:
    problem = problem_of(upstream(f"protocol: tcp, {text}"))
    assert problem.path == f"upstreams.a.{path}"
    assert problem.message.startswith(told)


def test_a_master_takes_a_tcp_port_and_no_registry() -> None:
    master = "discover: {sentinel: m, at: ['a:1', '[::1]:26379']}"
    assert "has to be tcp" in problem_of(upstream(master)).message
    assert config_of(upstream(f"protocol: tcp, {master}").replace("directory:///run/mesh", "none")).upstreams[
        "a"
    ].discover == Discover(service="a", sentinel="m", at=(Address("a", 1), Address("::1", 26379)))
