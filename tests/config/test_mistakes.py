"""What newcomers write, and what they are told: a table of mistakes, and every key with every wrong shape."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from sidecar.config.containers import ListOf, MapOf, Section
from sidecar.config.document import parse
from sidecar.config.errors import ConfigError, Problem
from sidecar.config.kinds import BROKEN, Kind, Place, Reading
from sidecar.config.load import check, load_text
from sidecar.config.policy import Policy, Short
from sidecar.config.schema import CONFIG

UP = "service: {name: a, app: 'a:1'}\nupstreams:\n  b: {bind: 'c:1', endpoints: ['d:1'], %s}"
FILE = "service: {name: a, app: 'a:1'}\n%s"


class Mistake(NamedTuple):
    """``text`` in the file ``frame``; what it is told: path, a part of the message, the nearest right value."""

    frame: str
    text: str
    path: str
    message: str
    nearest: str = ""


MISTAKES = [
    # addresses
    Mistake(FILE, "inbound: {bind: 8080}", "inbound.bind", "has no host, only a port", "127.0.0.1:8080"),
    Mistake(FILE, "inbound: {bind: ':8080'}", "inbound.bind", "has no host", "0.0.0.0:8080"),
    Mistake(FILE, "inbound: {bind: '*:8080'}", "inbound.bind", "has no host", "0.0.0.0:8080"),
    Mistake(FILE, "inbound: {bind: 'http://0.0.0.0:80'}", "inbound.bind", "is a URL; leave out http://", "0.0.0.0:80"),
    Mistake(FILE, "inbound: {bind: 'https://a'}", "inbound.bind", "is a URL; leave out https://", "a:443"),
    Mistake(FILE, "inbound: {bind: 'a:1/x'}", "inbound.bind", "is more than host and port; leave out /x", "a:1"),
    Mistake(FILE, "inbound: {bind: 'http://a:1/x'}", "inbound.bind", "leave out http:// and /x", "a:1"),
    Mistake("service: {name: a, %s}", "address: 'http://a:1'", "service.address", "is a URL", "a"),
    Mistake("service: {name: a, %s}", "address: 'a:1'", "service.address", "has a port", "a"),
    Mistake(FILE, "registry: consul", "registry", "is not a URL", "consul://127.0.0.1:8500"),
    Mistake(FILE, "registry: 10.0.0.1:8500", "registry", "is not a URL", "consul://10.0.0.1:8500"),
    Mistake(FILE, "registry: https://c:8501", "registry", "its scheme says which kind", "consul+tls://c:8501"),
    Mistake(FILE, "registry: /run/mesh", "registry", "is not a URL", "directory:///run/mesh"),
    Mistake(FILE, "tracing: {always: [error]}", "tracing.always[0]", "is not", "errors"),
    Mistake(FILE, "tracing: {slow: 0}", "tracing.slow", ""),
    Mistake(FILE, "tracing: {otlp: 'jaeger:4318'}", "tracing.otlp", "is not a URL", "http://jaeger:4318"),
    # one value where a mapping or a list stands
    Mistake(UP, "retry: 3", "upstreams.b.retry", "wrong type", "{max_attempts: 3}"),
    Mistake(UP, "retry: true", "upstreams.b.retry", "does not say what it is to be"),
    Mistake(UP, "retry: ~", "upstreams.b.retry", "does not say what it is to be"),
    Mistake(UP, "timeout: 5s", "upstreams.b.timeout", "wrong type", "{request: 5s}"),
    Mistake(UP, "rate_limit: 100/s", "upstreams.b.rate_limit", "wrong type", "{rate: 100/s}"),
    Mistake(UP, "bulkhead: 20", "upstreams.b.bulkhead", "wrong type", "{max_requests: 20}"),
    Mistake(UP, "circuit_breaker: 5", "upstreams.b.circuit_breaker", "wrong type", "{failure_threshold: 5}"),
    Mistake("%s", "service: web", "service", "wrong type", "{name: web}"),
    Mistake(FILE, "drain: 30s", "drain", "wrong type", "{timeout: 30s}"),
    Mistake(FILE, "log: debug", "log", "wrong type", "{level: debug}"),
    Mistake("service: {name: a, %s}", "check: /health", "service.check", "wrong type", "{http: /health}"),
    Mistake("service: {name: a, %s}", "tags: gpu", "service.tags", "wrong type", "[gpu]"),
    Mistake("service: {name: a}\nupstreams: {b: {bind: 'c:1', %s}}", "endpoints: d:1", "upstreams.b.endpoints",
            "wrong type", '["d:1"]'),
    Mistake("service: {name: a}\nupstreams: {b: {bind: 'c:1', %s}}", "endpoints: http://d:1/", "upstreams.b.endpoints",
            "wrong type", '["d:1"]'),
    Mistake("service: {name: a}\n%s", "upstreams: [{name: b}]", "upstreams", "wrong type"),
    # words of other programs
    Mistake(UP, "protocol: redis", "upstreams.b.protocol", "is not one of the known words", "tcp"),
    Mistake(UP, "protocol: RabbitMQ", "upstreams.b.protocol", "is not one of the known words", "amqp"),
    Mistake(FILE, "inbound: {bind: 'c:1', protocol: rabbitmq}", "inbound.protocol", "is not one of the known words"),
    # where a key belongs
    Mistake(FILE, "retry: {max_attempts: 3}", "retry", "it belongs to upstreams.<name>", "upstreams.<name>.retry"),
    Mistake(FILE, "circuit_breaker: off", "circuit_breaker", "it belongs to upstreams.<name>",
            "upstreams.<name>.circuit_breaker"),
    Mistake(FILE, "rate_limit: {rate: 1/s}", "rate_limit", "it belongs to inbound", "inbound.rate_limit"),
    Mistake(FILE, "name: web", "name", "it belongs to service", "service.name"),
    Mistake(FILE, "level: debug", "level", "it belongs to log", "log.level"),
    Mistake(UP, "max_attempts: 3", "upstreams.b.max_attempts", "is not a known key",
            "upstreams.<name>.retry.max_attempts"),
    Mistake(UP, "servers: [a]", "upstreams.b.servers", "is not a known key", "endpoints"),
    Mistake(UP, "retry: {retries: 3}", "upstreams.b.retry.retries", "is not a known key", "max_attempts"),
    # units and numbers
    Mistake(UP, "timeout: {request: 5 sec}", "upstreams.b.timeout.request", "is not a duration", "5s"),
    Mistake(UP, "timeout: {request: 5min}", "upstreams.b.timeout.request", "is not a duration", "5m"),
    Mistake(UP, "limits: {body: 10MB}", "upstreams.b.limits.body", "is not a size", "10MiB"),
    Mistake(UP, "limits: {body: 64k}", "upstreams.b.limits.body", "is not a size", "64KiB"),
    Mistake(UP, "rate_limit: {rate: 100}", "upstreams.b.rate_limit.rate", "is not a rate", "100/s"),
    Mistake(UP, "rate_limit: {rate: 100 per minute}", "upstreams.b.rate_limit.rate", "is not a rate", "100/m"),
    Mistake(UP, "rate_limit: {rate: 100rps}", "upstreams.b.rate_limit.rate", "is not a rate", "100/s"),
    Mistake(UP, "retry: {max_attempts: '3'}", "upstreams.b.retry.max_attempts", "is not a whole number", "3"),
    Mistake(UP, "bulkhead: {max_requests: 1_000}", "upstreams.b.bulkhead.max_requests", "is not a whole number",
            "1000"),
    Mistake(UP, "retry: {jitter: yes}", "upstreams.b.retry.jitter", "is not true or false", "true"),
    Mistake(UP, "retry: {jitter: 'false'}", "upstreams.b.retry.jitter", "is not true or false", "false"),
    Mistake(FILE, "tracing: {sample: 110%}", "tracing.sample", "is out of range"),
    Mistake(FILE, "tracing: {sample: half%}", "tracing.sample", "is not a percentage"),
    Mistake(FILE, "log: {level: warn}", "log.level", "is not one of the known words", "warning"),
    # methods
    Mistake(UP, "retry: {methods: [FOO]}", "upstreams.b.retry.methods[0]", "is not a request method"),
    Mistake(UP, "retry: {methods: [DELET]}", "upstreams.b.retry.methods[0]", "is not a request method", "DELETE"),
    Mistake(UP, "routes: [{match: {methods: [GET, FOO]}}]", "upstreams.b.routes[0].match.methods[1]",
            "is not a request method"),
    Mistake(UP, "queue: {path: /x, methods: [FOO]}", "upstreams.b.queue.methods[0]", "is not a request method"),
    # together
    Mistake(UP, "timeout: {connect: 5s, request: 1s}", "upstreams.b.timeout.connect", "is longer than request"),
    Mistake(UP, "timeout: {connect: 45s}", "upstreams.b.timeout.connect", "is longer than request"),
    Mistake(UP, "routes: [{match: {}, timeout: {connect: 2s, request: 1s}}]", "upstreams.b.routes[0].timeout.connect",
            "is longer than request"),
    # YAML
    Mistake("%s", "service:\n\tname: a", "", "is not valid YAML: indented with a tab"),
    Mistake("%s", "service:\n  name: a\n \t id: b", "", "is not valid YAML: indented with a tab"),
    Mistake("%s", "", "service.name", "is missing"),
    Mistake("%s", "# nothing\n---\n", "service.name", "is missing"),
]  # fmt: skip


def problems_of(text: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load_text(text, "sidecar.yaml", {})
    return caught.value.problems


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.text)
def test_a_mistake_is_told_with_what_was_meant(mistake: Mistake) -> None:
    [problem] = [it for it in problems_of(mistake.frame % mistake.text) if it.path == mistake.path]
    assert mistake.message in problem.message
    assert problem.nearest == mistake.nearest


@pytest.mark.parametrize(
    ("text", "told"),
    [
        # a key that is misspelt, or called as elsewhere, is not missing
        ("upstreams: {b: {bind: 'c:1', endpoint: ['d:1']}}", ["upstreams.b.endpoint"]),
        ("upstreams: {b: {bind: 'c:1', endpoint: 'd:1'}}", ["upstreams.b.endpoint"]),
        ("upstreams: {b: {bind: 'c:1', url: 'http://d:1'}}", ["upstreams.b.url"]),
        ("upstreams: {b: {port: 80, endpoints: ['d:1']}}", ["upstreams.b.port"]),
        # what is wrong behind it is told
        ("upstreams: {b: {bind: 'c:1', endpoint: ['d']}}", ["upstreams.b.endpoint", "upstreams.b.endpoint[0]"]),
        ("upstream: {b: {bind: 'c:1', endpoints: ['d:1'], retry: 3, x: 1}}\nlog: {level: x}",
         ["upstream", "upstream.b.retry", "upstream.b.x", "log.level"]),
        ("upstream: {b: {bind: 'c:1'}}", ["upstream", "upstream.b"]),
        # the right key stands beside it
        ("upstream: {b: {}}\nupstreams: {b: {bind: 'c:1', endpoints: ['d:1']}}", ["upstream"]),
        # that is too far from any key to be read as one
        ("rehearse_it: {records: x}", ["rehearse_it"]),
    ],
)  # fmt: skip
def test_one_mistake_neither_hides_others_nor_makes_them(text: str, told: list[str]) -> None:
    assert [it.path for it in problems_of(FILE % text)] == told


@pytest.mark.parametrize(
    "text",
    [
        "timeout: {connect: 1s, request: 1s}",
        "timeout: {request: 10ms}",
        "protocol: tcp, timeout: {connect: 45s}",
        "retry: {methods: [get, Propfind]}",
    ],
)
def test_what_is_right(text: str) -> None:
    load_text(UP % text, "sidecar.yaml", {})


def test_a_default_yields_to_what_is_shorter() -> None:
    config = load_text(UP % "timeout: {request: 10ms}", "sidecar.yaml", {})
    assert config.upstreams["b"].policies["timeout"].connect == 0.01


@pytest.mark.parametrize(("text", "share"), [("10%", 0.1), ("0%", 0), ("100%", 1), ("0.5%", 0.005), ("0.25", 0.25)])
def test_a_share_may_be_a_percentage(text: str, share: float) -> None:
    assert load_text(f"service: {{name: a}}\ntracing: {{sample: {text}}}", "sidecar.yaml", {}).tracing.sample == share


def test_keys_for_anchors() -> None:
    text = "x-often: &often {max_attempts: 5}\nx-more: [1, {a: ${UNSET}}]\n" + UP % "retry: *often"
    config = load_text(text, "sidecar.yaml", {})
    retry = config.upstreams["b"].policies["retry"]
    assert retry is not None
    assert retry.max_attempts == 5
    [problem] = problems_of(UP % "x-mine: 1")  # at the top only: elsewhere it may be a mistake
    assert problem.message == "is not a known key"


def test_a_place_has_a_line_and_a_column() -> None:
    text = "service:\n  name: a\nlog:\n  level: info\n  formt: json\ndrain: {timeout: x}\n"
    first, second = problems_of(text)
    assert (first.line, first.column, second.line, second.column) == (5, 3, 6, 9)
    assert first.text("sidecar.yaml").startswith("sidecar.yaml:5:3: log.formt: ")


SHAPES = [
    *("", "~", "[]", "{}", "[[1]]", "{zzz: 1}", "5", "'5'", "-1", "1e999", ".inf", "true", "on", "off", "text", "''"),
    *("http://h:1", "http://u:hunter2@h:1", "10%", "5 sec", "100/sec", "64KB", "'*:80'", "FOO", "2024-01-01", "0x1F"),
    *("1_000", "'::1'", "${", "${UNSET}", "a: {b: [c]}", "[~]", "[{}]", "ÿ", "'a\tb'", "1:30", "'http://'", "://", "/"),
    *("' '", "'%'"),
]  # fmt: skip


def kinds(kind: Kind, path: str) -> list[tuple[str, Kind]]:
    found = [(path, kind)]
    match kind:
        case Section():
            for name, key in kind.keys.items():
                found += kinds(key.kind, f"{path}.{name}" if path else name)
        case Policy() | Short():
            found += kinds(kind.section, path)
        case ListOf():
            found += kinds(kind.item, f"{path}[]")
        case MapOf():
            found += kinds(kind.value, f"{path}.<name>")
        case _:
            pass
    return found


@pytest.mark.parametrize("offline", [False, pytest.param(True, marks=pytest.mark.costly)])
def test_every_key_with_every_shape_is_read_or_told(offline: bool) -> None:
    nodes = [(shape, node) for shape in SHAPES if (node := parse(shape, [])) is not None]
    for path, kind in kinds(CONFIG, ""):
        for shape, node in nodes:
            reading = Reading({}, Path(), offline=offline, root=CONFIG)
            value = kind.read(node, Place(path, 1, reading))
            if value is BROKEN and not offline:
                assert reading.problems, (path, shape)
            for problem in reading.problems:
                assert problem.path.startswith(path)
                assert problem.message
                assert problem.allowed or "${" in problem.message or "environment" in problem.message, (path, shape)
                text = problem.text("sidecar.yaml")
                assert "hunter2" not in text
                assert text.isprintable() or text.replace("\n", "").isprintable()


def test_offline_needs_neither_variables_nor_secrets(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text("""service: {name: "${NAME}", app: "${APP}"}
registry: ${REGISTRY}
consul: {token: {file: /run/secrets/none}}
admin: {bind: "${ADMIN}", token: {file: none}}
inbound: {bind: "0.0.0.0:${PORT}"}
upstreams:
  a: {bind: "${A:-127.0.0.1:1}", protocol: "${P}", timeout: {connect: "${C}", request: 1s}, retry: "${R}"}
""")
    summary = check(file, offline=True)
    assert (summary.service, summary.listeners, summary.registry) == (
        "(from the environment)", 2, "(from the environment)",
    )  # fmt: skip
    with pytest.raises(ConfigError):
        check(file)
    file.write_text(file.read_text().replace("127.0.0.1:1", "127.0.0.1"))
    with pytest.raises(ConfigError) as caught:
        check(file, offline=True)
    [problem] = caught.value.problems
    assert (problem.path, problem.message) == ("upstreams.a.bind", "has no port")
