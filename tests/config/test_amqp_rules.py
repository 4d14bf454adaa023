"""What has to fit together in an ``amqp`` section, each rule broken once."""

from __future__ import annotations

import pytest

from support.configs import config_of, error_of, problem_of, problems_of

HEAD = "service: {name: tasks, app: 127.0.0.1:8080}\nregistry: directory:///run/mesh\n"
ACCOUNT = "credentials: {username: sidecar, password: hunter2}"


def upstream(text: str) -> str:
    return HEAD + f"upstreams: {{a: {{bind: 127.0.0.1:1000, protocol: amqp, {text}}}}}\n"


def amqp(text: str, more: str = "") -> str:
    return HEAD + f"upstreams: {{a: {{bind: 127.0.0.1:1000, protocol: amqp, amqp: {{{text}}}}}, {more}}}\n"


def test_inbound_is_not_amqp() -> None:
    problem = problem_of(HEAD + "inbound: {bind: 0.0.0.0:1, protocol: amqp}")
    assert problem.path == "inbound.protocol"
    assert problem.message.startswith("is for upstreams")
    assert problem.allowed == "http or tcp"
    assert problem_of(HEAD + "inbound: {bind: 0.0.0.0:1, amqp: {}}").message == "is not a known key"


@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_the_section_is_for_its_protocol(protocol: str) -> None:
    problem = problem_of(HEAD + f"upstreams: {{a: {{bind: 127.0.0.1:1000, protocol: {protocol}, amqp: {{}}}}}}")
    assert (problem.path, problem.message) == ("upstreams.a.amqp", f"is not for protocol {protocol}")
    assert problem_of(HEAD + "upstreams: {a: {bind: 127.0.0.1:1000, amqp: {}}}").path == "upstreams.a.amqp"
    # A protocol that cannot be read is one problem, not two.
    problem = problem_of(HEAD + "upstreams: {a: {bind: 127.0.0.1:1000, protocol: amqp1, amqp: {}}}")
    assert (problem.path, problem.nearest) == ("upstreams.a.protocol", "amqp")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("routes: [{match: {path: /x}}]", "routes"),
        ("timeout: {request: 1s}", "timeout.request"),
        ("timeout: {idle: 1s}", "timeout.idle"),
        ("timeout: {keepalive: 1s}", "timeout.keepalive"),
        ("limits: {head: 1KiB}", "limits.head"),
        ("limits: {headers: 5}", "limits.headers"),
        ("limits: {target: 1KiB}", "limits.target"),
        ("limits: {body: 1KiB}", "limits.body"),
        ("retry: {on: [connect]}", "retry.on"),
        ("retry: {methods: [GET]}", "retry.methods"),
        ("rate_limit: {rate: 1/s, key: path}", "rate_limit.key"),
        ("rate_limit: {rate: 1/s, key: 'header:x'}", "rate_limit.key"),
    ],
)
def test_what_amqp_has_not(text: str, path: str) -> None:
    problem = problem_of(upstream(text))
    assert (problem.path, problem.message) == (f"upstreams.a.{path}", "is not for protocol amqp")
    assert problem.allowed


def test_what_amqp_has() -> None:
    config_of(
        upstream(
            "balancer: least_connections, timeout: {connect: 1, head: 2, total: 3}, routes: [],"
            "circuit_breaker: {failure_threshold: 1, failure_on: [connect]},"
            "retry: {max_attempts: 2, initial_delay: 1, max_delay: 2, jitter: false, backoff_type: linear},"
            "bulkhead: {max_connections: 5}, rate_limit: {rate: 5/s, key: ip}, limits: {connections: 10}"
        )
    )


@pytest.mark.parametrize("text", ["queues: [{name: q}]", "management: 'http://c:15672'"])
def test_watching_needs_an_account(text: str) -> None:
    problem = problem_of(amqp(text))
    assert problem.path == "upstreams.a.amqp.credentials"
    assert problem.message.startswith("is missing")
    assert problem.line == 3
    config_of(amqp(f"{text}, {ACCOUNT}"))
    # An account that cannot be read is one problem, not two.
    assert problem_of(amqp(f"{text}, credentials: 5")).path == "upstreams.a.amqp.credentials"
    config_of(amqp("queues: [], management: ''"))


def test_an_empty_password_is_none() -> None:
    problem = problem_of(amqp("credentials: {username: a, password: '${P:-}'}"))
    assert (problem.path, problem.message) == ("upstreams.a.amqp.credentials.password", "is empty")


def test_vhosts_differ() -> None:
    problem = problem_of(amqp("vhosts: [/, /x, /]"))
    assert (problem.path, problem.message) == ("upstreams.a.amqp.vhosts[2]", "is given twice")


def test_any_vhost_is_no_name() -> None:
    assert problem_of(amqp("vhosts: ['*']")).path == "upstreams.a.amqp.vhosts[0]"
    problem = problem_of(amqp(f"queues: [{{name: q, vhost: '*'}}], {ACCOUNT}"))
    assert problem.path == "upstreams.a.amqp.queues[0].vhost"
    config_of(amqp("publish: [{vhost: '*', rate: 1/s}]"))


def test_rules_and_queues_are_where_clients_may_go() -> None:
    problem = problem_of(amqp("vhosts: [/x], publish: [{vhost: /y, rate: 1/s}]"))
    assert (problem.path, problem.found) == ("upstreams.a.amqp.publish[0].vhost", 'vhost "/y"')
    assert problem.allowed == '"/x"'
    problem = problem_of(amqp(f"vhosts: [/x], queues: [{{name: q, vhost: /y}}], {ACCOUNT}"))
    assert problem.path == "upstreams.a.amqp.queues[0].vhost"
    problem = problem_of(amqp(f"vhosts: [/x], queues: [{{name: q}}], {ACCOUNT}"))
    assert (problem.path, problem.found) == ("upstreams.a.amqp.queues[0]", 'vhost "/"')
    config_of(amqp(f"vhosts: [/x], publish: [{{rate: 1/s}}], queues: [{{name: q, vhost: /x}}], {ACCOUNT}"))
    # One that cannot be read may be the one that is meant.
    assert (
        problem_of(amqp("vhosts: [/x, [/y]], publish: [{vhost: /y, rate: 1/s}]")).path == "upstreams.a.amqp.vhosts[1]"
    )


@pytest.mark.parametrize("rate", ["", "rate: 0/s, "])
@pytest.mark.parametrize("key", ["burst: 5", "over: nack"])
def test_without_a_rate_there_is_nothing_over_it(rate: str, key: str) -> None:
    problem = problem_of(amqp(f"publish: [{{{rate}exchange: a, {key}}}]"))
    assert problem.path == f"upstreams.a.amqp.publish[0].{key.partition(':')[0]}"
    assert problem.message == "means nothing without a rate"


def test_a_rate_that_cannot_be_read_is_one_problem() -> None:
    assert problem_of(amqp("publish: [{rate: x, burst: 5}]")).path == "upstreams.a.amqp.publish[0].rate"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("{rate: 1/s}", "{exchange: a, rate: 1/s}"),
        ("{rate: 1/s}", "{rate: 2/s}"),
        ("{exchange: a, rate: 1/s}", "{exchange: a, routing_key: b, rate: 1/s}"),
        ("{exchange: a, routing_key: b}", "{vhost: /x, exchange: a, routing_key: b, rate: 1/s}"),
    ],
)
def test_no_rule_is_hidden_behind_another(first: str, second: str) -> None:
    problem = problem_of(amqp(f"publish: [{{exchange: c, routing_key: d}}, {first}, {second}]"))
    assert problem.path == "upstreams.a.amqp.publish[2]"
    assert "publish[1]" in problem.message
    config_of(amqp(f"publish: [{second.replace('rate: 2/s', 'exchange: z')}, {first}]"))


def test_queues_differ() -> None:
    problem = problem_of(amqp(f"queues: [{{name: q}}, {{name: q, vhost: /x}}, {{name: q, high: 5}}], {ACCOUNT}"))
    assert (problem.path, problem.message) == ("upstreams.a.amqp.queues[2].name", "is given twice")
    assert problem.found == '"q" in vhost "/"'
    problem = problem_of(amqp(f'queues: [{{name: "q\\u202e"}}, {{name: "q\\u202e"}}], {ACCOUNT}'))
    assert "\u202e" not in problem.found


def test_low_is_not_above_high() -> None:
    problem = problem_of(amqp(f"queues: [{{name: q, high: 5, low: 6}}], {ACCOUNT}"))
    assert (problem.path, problem.found, problem.allowed) == ("upstreams.a.amqp.queues[0].low", "6", "at most 5")
    assert problem_of(amqp(f"queues: [{{name: q, low: 10001}}], {ACCOUNT}")).allowed == "at most 10000"
    assert problem_of(amqp(f"queues: [{{name: q, high: x, low: 6}}], {ACCOUNT}")).path.endswith("high")
    config_of(amqp(f"queues: [{{name: q, high: 5, low: 5}}, {{name: r, high: 5}}], {ACCOUNT}"))


def test_prefetch_is_in_order() -> None:
    assert problem_of(amqp("prefetch: {default: 6, max: 5}")).path == "upstreams.a.amqp.prefetch.default"
    config_of(amqp("prefetch: {default: 2000}"))
    assert problem_of(amqp("prefetch: {default: 6, max: x}")).path == "upstreams.a.amqp.prefetch.max"
    config_of(amqp("prefetch: {default: 5000, max: 0}"))
    config_of(amqp("prefetch: {default: 0, max: 5}"))


@pytest.mark.parametrize(
    ("text", "more", "item", "message"),
    [
        ("b", "", 0, "is not an upstream of this file"),
        ("a", "", 0, "is this upstream itself"),
        ("b, b", "b: {bind: 'x:2'}", 1, "is given twice"),
        (
            "b",
            "b: {bind: 'x:2', circuit_breaker: off}",
            0,
            "is an upstream without a circuit breaker, so nothing would ever be paused",
        ),
    ],
)
def test_pausing_takes_the_breaker_of_another_upstream(text: str, more: str, item: int, message: str) -> None:
    problem = problem_of(amqp(f"pause_on: [{text}]", more))
    assert (problem.path, problem.message) == (f"upstreams.a.amqp.pause_on[{item}]", message)
    assert problem.found
    assert problem.allowed


def test_pausing() -> None:
    config_of(amqp("pause_on: [b, c]", "b: {bind: 'x:2'}, c: {bind: 'x:3', protocol: tcp}"))
    assert problem_of(amqp("pause_on: [olama]", "ollama: {bind: 'x:2'}")).nearest == "ollama"
    # An upstream that cannot be read is there all the same.
    assert problem_of(amqp("pause_on: [b]", "b: 5")).path == "upstreams.b"
    assert (
        problem_of(amqp("pause_on: [b]", "b: {bind: 'x:2', circuit_breaker: 5}")).path == "upstreams.b.circuit_breaker"
    )


def test_every_problem_at_once() -> None:
    text = amqp(
        "vhosts: [/, /], prefetch: {default: 9, max: 8}, publish: [{burst: 5}, {vhost: /y}],"
        "queues: [{name: q, high: 1, low: 2}], pause_on: [x], spool: 5"
    )
    assert {problem.path.removeprefix("upstreams.a.amqp.") for problem in problems_of(text)} == {
        *("vhosts[1]", "prefetch.default", "publish[0].burst", "publish[1].vhost", "publish[1]"),
        *("queues[0].low", "pause_on[0]", "credentials", "spool"),
    }


@pytest.mark.parametrize(
    "text",
    [
        "amqp: hunter2",
        "amqp: [hunter2]",
        "amqp: {credentials: hunter2}",
        "amqp: {credentials: 'sidecar:hunter2'}",
        "amqp: {credentials: [sidecar, hunter2]}",
        "amqp: {credentials: {username: a, password: [hunter2]}}",
        "amqp: {credentials: {username: a, password: {fil: hunter2}}}",
        "amqp: {credentials: {username: a, pasword: hunter2}}",
        'amqp: {credentials: {username: a, password: "${PASSWORD}\\n"}}',
        "amqp: {credentials: {password: hunter2}}",
        "amqp: {credentials: {username: a, password: hunter2, x: 1}}",
        "amqp: {management: 'http://sidecar:hunter2@c:15672'}",
        "amqp: {management: 'http://sidecar:${PASSWORD}@c:15672'}",
        "amqp: {management: '${URL}'}",
        "amqp: {management: 'http://c:15672/?password=hunter2'}",
        "amqp: {management: ['http://sidecar:hunter2@c:15672']}",
        "amqp: {queues: 'amqp://sidecar:hunter2@c'}",
        "amqp: {queues: ['amqp://sidecar:hunter2@c']}",
        "amqp: 'amqp://sidecar:hunter2@c/%2f'",
        "protocol: 'amqp://sidecar:hunter2@c'",
        "discover: {service: 'amqp://sidecar:hunter2@c'}",
        "discover: 'amqp://sidecar:hunter2@c'",
        "discover: {service: '${URL}'}",
        "discover: {service: 'amqp://sidecar:hunter2@${HOST}'}",
        "endpoints: ['amqp://sidecar:hunter2@c:5672/%2f']",
        "endpoints: ['sidecar:hunter2@c:5672']",
        "endpoints: ['${URL}']",
        "endpoints: 'amqp://sidecar:hunter2@c:5672'",
        "endpoints: [{address: '${URL}'}]",
        "retry: '${URL}'",
    ],
)
def test_passwords_are_not_in_errors(text: str) -> None:
    environ = {"PASSWORD": "hunter2", "URL": "amqp://sidecar:hunter2@c:5672", "HOST": "c"}
    protocol = "" if text.startswith("protocol") else "protocol: amqp, "
    error = error_of(HEAD + f"upstreams: {{a: {{bind: 127.0.0.1:1000, {protocol}{text}}}}}", environ)
    assert "hunter2" not in str(error)
    assert "hunter2" not in repr(error.problems)
