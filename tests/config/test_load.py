from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.config import host
from sidecar.config.addresses import Registry
from sidecar.config.errors import MAX_PROBLEMS, ConfigError
from sidecar.config.load import load, load_text
from sidecar.config.schema import Config
from sidecar.config.service import Service
from sidecar.config.traffic import Discover, Match, StaticEndpoint
from sidecar.core.address import Address
from sidecar.core.limits import Limits
from sidecar.core.secret import Secret
from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.filters.rate_limit import RateLimitSettings
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from support.configs import FULL, config_of, error_of, problem_of, problems_of

#: The example of the contract, less what this version does not have.
EXAMPLE = """
service:
  name: task-decomposition
  id: task-decomposition-1            # default: <name>-<host>-<inbound port>
  address: 10.0.0.5                   # what others dial; default: this host's address
  app: 127.0.0.1:8080                 # where the app itself listens
  tags: [ai, v1]
  meta: {version: "1.0"}
  weights: {passing: 10, warning: 1}
  check: {http: /health, interval: 10s, timeout: 5s, deregister_critical_service_after: 1m}   # or tcp: true

registry: consul://127.0.0.1:8500     # or directory:///run/mesh (embedded, no server), or none
consul: {token: ${CONSUL_HTTP_TOKEN:-}, datacenter: dc1}

inbound:
  bind: 0.0.0.0:10030                 # this is the address that gets registered
  protocol: http                      # http | tcp
  rate_limit: {rate: 100/s, burst: 200, key: none}          # none | ip | path | header:<name>
  bulkhead: {max_connections: 100, max_requests: 20, max_pending: 200, pending_timeout: 5s}
  timeout: {request: 30s, idle: 5m}
  limits: {head: 64KiB, headers: 100, target: 8KiB, body: 0}   # 0: none; upstreams have them too
  routes:                             # first match wins; its policies replace those of the listener
    - match: {path: "/api/v1/tasks/*", methods: [POST], headers: {x-priority: low}}
      rate_limit: {rate: 10/s}

upstreams:
  ollama:
    bind: 127.0.0.1:11434             # the port the app dials
    protocol: http
    discover: {service: ollama, tag: gpu}
    balancer: least_connections
    timeout: {connect: 1s, request: 30s, idle: 5m}
    circuit_breaker: {failure_threshold: 5, timeout_duration: 30, reset_timeout: 60, half_open_requests: 3}
    retry: {max_attempts: 3, backoff_type: exponential, initial_delay: 1, max_delay: 30, jitter: true}
    bulkhead: {max_connections: 100, max_requests: 20, max_pending: 100, pending_timeout: 5s}
    rate_limit: {rate: 100/s, burst: 200}
    routes: []                        # as for inbound
  redis:
    bind: 127.0.0.1:6379
    protocol: tcp

admin: {bind: 127.0.0.1:15000, token: {file: SECRETS/admin}}    # token needed as soon as bind is not loopback
tracing: {sample: 0.01, otlp: http://jaeger:4318, propagate: [w3c, b3]}
log: {level: info, format: json}
drain: {timeout: 30s}
"""


def test_the_example_of_the_contract(tmp_path: Path) -> None:
    (tmp_path / "admin").write_text("hunter2\n")
    file = tmp_path / "mesh.yaml"
    file.write_text(EXAMPLE.replace("SECRETS", str(tmp_path)))
    config = load(file, {"CONSUL_HTTP_TOKEN": "hunter3"})
    assert config.service.id == "task-decomposition-1"
    assert config.service.tags == ("ai", "v1")
    assert config.registry == Registry(kind="consul", address=Address("127.0.0.1", 8500))
    assert config.consul.token.reveal() == "hunter3"
    assert config.admin.token.reveal() == "hunter2"
    assert config.inbound is not None
    assert config.inbound.policies["rate_limit"] == RateLimitSettings(rate=100.0, burst=200)
    [route] = config.inbound.routes
    assert route.match == Match(path="/api/v1/tasks/*", methods=("POST",), headers={"x-priority": "low"})
    assert route.policies["rate_limit"] == RateLimitSettings(rate=10.0, burst=10)
    assert "bulkhead" not in route.policies
    ollama = config.upstreams["ollama"]
    assert ollama.discover == Discover(service="ollama", tag="gpu")
    assert ollama.policies["bulkhead"] == BulkheadSettings(max_connections=100, max_requests=20, max_pending=100)
    assert ollama.policies["retry"] == RetrySettings()
    assert ollama.policies["circuit_breaker"] == CircuitBreakerSettings()
    assert config.upstreams["redis"].discover == Discover(service="redis")
    assert "hunter" not in repr(config)


def test_everything_but_the_name_has_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "address", lambda: "10.1.2.3")
    monkeypatch.setattr(host, "hostname", lambda: "box")
    assert config_of("service: {name: a}") == Config(service=Service(name="a", id="a-box", address="10.1.2.3"))


def test_the_id_and_the_address_follow_inbound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "address", lambda: "10.1.2.3")
    monkeypatch.setattr(host, "hostname", lambda: "box")
    service = "service: {name: a, app: 127.0.0.1:1}\n"
    for bind, address in (("0.0.0.0:80", "10.1.2.3"), ("'[::]:80'", "10.1.2.3"), ("10.9.9.9:80", "10.9.9.9")):
        config = config_of(service + f"inbound: {{bind: {bind}}}")
        assert config.service.id == "a-box-80"
        assert config.service.address == address


def test_this_host() -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", host.hostname())
    assert re.fullmatch(r"[0-9a-f.:]+", host.address())


def test_a_host_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> str:
        raise OSError

    monkeypatch.setattr("socket.socket.connect", fails)
    monkeypatch.setattr("socket.gethostbyname", lambda _: "10.7.7.7")
    assert host.address() == "10.7.7.7"
    monkeypatch.setattr("socket.gethostbyname", fails)
    assert host.address() == "127.0.0.1"
    monkeypatch.setattr("socket.gethostname", lambda: "my box.example.org")
    assert host.hostname() == "my-box"


def test_defaults_of_a_partial_policy() -> None:
    config = config_of(
        FULL.replace("127.0.0.1:11434}", "127.0.0.1:11434, timeout: {idle: 1m}, retry: {max_attempts: 5}}")
    )
    ollama = config.upstreams["ollama"]
    assert ollama.policies["timeout"] == TimeoutSettings(idle=60.0)
    assert ollama.policies["retry"] == RetrySettings(max_attempts=5)
    assert ollama.limits == Limits()
    assert ollama.policies["rate_limit"] is None


@pytest.mark.parametrize("off", ["off", "'off'", "false", "Off", "${OFF}"])
def test_policies_that_are_off(off: str) -> None:
    policies = ", ".join(f"{name}: {off}" for name in ("retry", "circuit_breaker", "bulkhead", "rate_limit"))
    config = config_of(
        f"""
        service: {{name: a}}
        upstreams:
          b:
            bind: 127.0.0.1:1
            endpoints: ["c:1"]
            <<: &policies {{{policies}}}
            routes: [{{match: {{}}, <<: *policies}}, {{match: {{}}}}]
        """,
        {"OFF": "off"},
    )
    upstream = config.upstreams["b"]
    one, other = upstream.routes
    none = dict.fromkeys(("retry", "circuit_breaker", "bulkhead", "rate_limit"))
    assert upstream.policies.items() >= none.items()
    assert one.policies == none
    assert other.policies == {}


def test_details_of_values() -> None:
    config = config_of(
        """
        service: {name: a}
        upstreams:
          b:
            bind: 127.0.0.1:1
            endpoints: ["c:1", {address: "[::1]:2", weight: 3}]
            circuit_breaker: {timeout_duration: 30, failure_on: [502, "503", 5xx, connect]}
            retry: {on: [timeout, 429], methods: [get, Post]}
            rate_limit: {rate: 30/m}
            routes:
              - match: {methods: [patch], headers: {X-Tier: "go*"}}
                rate_limit: {rate: 2.5/s, key: "header:X-Id"}
        """
    )
    upstream = config.upstreams["b"]
    assert upstream.name == "b"
    assert upstream.endpoints == (
        StaticEndpoint(address=Address("c", 1)),
        StaticEndpoint(address=Address("::1", 2), weight=3),
    )
    assert upstream.policies["circuit_breaker"] is not None
    assert upstream.policies["circuit_breaker"].timeout_duration == 30.0
    assert upstream.policies["circuit_breaker"].failure_on == {"502", "503", "5xx", "connect"}
    assert upstream.policies["retry"] is not None
    assert upstream.policies["retry"].on == {"timeout", "429"}
    assert upstream.policies["retry"].methods == {"GET", "POST"}
    assert upstream.policies["rate_limit"] == RateLimitSettings(rate=0.5, burst=1)
    [route] = upstream.routes
    assert route.match == Match(methods=("PATCH",), headers={"x-tier": "go*"})
    assert route.policies["rate_limit"] == RateLimitSettings(rate=2.5, burst=3, key="header:x-id")


def test_anchors_spare_repetition() -> None:
    config = config_of(
        """
        service: {name: a}
        upstreams:
          b: &b {bind: 127.0.0.1:1, endpoints: ["c:1"], retry: {max_attempts: 7}}
          d: {<<: *b, bind: 127.0.0.1:2}
        """
    )
    upstreams = config.upstreams
    assert upstreams["d"].policies["retry"] == upstreams["b"].policies["retry"] == RetrySettings(max_attempts=7)


# Errors


def test_all_problems_at_once_with_lines_and_hints() -> None:
    error = error_of(
        """\
        service:
          name: bad/name
          tag: [x]
        registry: consul://127.0.0.1
        inbound: {bind: 0.0.0.0, protocol: htpp}
        upstreams:
          ollama:
            bind: 127.0.0.1:11434
            retry:
              max_attemps: 3
              max_attempts: many
              initial_delay: 5s
              max_delay: 1s
            circuit_braker: off
          redis: {bind: 127.0.0.1:11434, endpoints: []}
        logs: {level: debug}
        drain: 30s
        """
    )
    assert [(problem.line, problem.path) for problem in error.problems] == [
        (1, "service.app"),
        (2, "service.name"),
        (3, "service.tag"),
        (5, "inbound.bind"),
        (5, "inbound.protocol"),
        (9, "upstreams.ollama.retry"),
        (10, "upstreams.ollama.retry.max_attemps"),
        (11, "upstreams.ollama.retry.max_attempts"),
        (14, "upstreams.ollama.circuit_braker"),
        (15, "upstreams.redis.bind"),
        (15, "upstreams.redis.endpoints"),
        (16, "logs"),
        (17, "drain"),
    ]
    text = str(error)
    assert "mesh.yaml:11:7: upstreams.ollama.retry.max_attempts: is not a whole number\n" in text
    assert '    found:   "many"\n    allowed: a whole number from 1 to 20\n' in text
    assert "did you mean max_attempts?" in text
    assert "did you mean tags?" in text
    assert "did you mean circuit_breaker?" in text
    assert "did you mean log?" in text
    assert "did you mean http?" in text


def test_unknown_keys_list_the_known_ones() -> None:
    problem = problem_of("service: {name: a, zzz: 1}")
    assert problem.message == "is not a known key"
    assert problem.allowed == "name, id, address, app, tags, meta, weights, check"
    assert problem.nearest == ""
    assert problem_of("service: {name: a, 'x\ty.z': 1}").path == 'service."x\\ty.z"'


@pytest.mark.parametrize("text", ["", "# nothing", "~", "{}", "service: {}", "log: {level: debug}"])
def test_the_name_is_missing(text: str) -> None:
    problem = problem_of(text)
    assert (problem.path, problem.message) == ("service.name", "is missing")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[1]", "a list"),
        ("x", "a single value (str)"),
        ("service: [a]", "a list"),
        ("service:", "a single value (null)"),
    ],
)
def test_wrong_shapes(text: str, found: str) -> None:
    assert problem_of(text).found == found
    assert problem_of("service: {name: a}\nupstreams: [a]").found == "a list"
    assert problem_of("service: {name: a, tags: x}").found == '"x"'
    assert problem_of("service: {name: a}\nupstreams: {a: {bind: 'b:1', endpoints: [[c]]}}").found == "a list"


def test_secrets_are_not_in_errors() -> None:
    environ = {"TOKEN": "hunter2"}
    for text in (
        "consul: hunter2",
        "consul: [hunter2]",
        "consul: {token: [${TOKEN}]}",
        "consul: {token: {file: /none, x: hunter2}}",
        "consul: {token: ${TOKEN}, tokn: hunter2}",
        "consul: {tokn: hunter2}",
        'consul: {token: "${TOKEN}\\n"}',
        "consul: {token: ${TOKEN}, datacenter: [1]}",
        "admin: hunter2",
        "admin: {bind: 0.0.0.0:1, token: ${TOKEN}, x: hunter2}",
        "registry: consul://x:${TOKEN}@c:1",
        "tracing: {otlp: 'http://x:${TOKEN}@c:1'}",
        "tracing: {otlp: 'http://c:1/?key=${TOKEN}'}",
    ):
        error = error_of(f"service: {{name: a}}\n{text}", environ)
        assert "hunter2" not in str(error)
        assert "hunter2" not in repr(error.problems)


def test_a_missing_secret_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mesh.yaml"
    file.write_text("service: {name: a}\nconsul: {token: {file: token}}\n")
    with pytest.raises(ConfigError, match=r"names '.*/token', which cannot be read: No such file"):
        load(file)
    (tmp_path / "token").write_text("hunter2\n")
    assert load(file).consul.token == Secret("hunter2")


def test_a_sidecar_does_not_run_with_standard_input() -> None:
    with pytest.raises(ConfigError) as caught:
        load("-")
    [problem] = caught.value.problems
    assert (caught.value.filename, problem.message) == (
        "<stdin>", "cannot be read again by a reload, so no sidecar runs with it",
    )  # fmt: skip
    assert "env:NAME" in problem.allowed


def test_unreadable_files(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    with pytest.raises(ConfigError) as caught:
        load(missing)
    assert str(caught.value) == f"{missing}: cannot be read: No such file or directory"
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="not the name of a file"):
        load("a\0b")
    file = tmp_path / "mesh.yaml"
    file.write_bytes(b"service:\n  name: \xff\xfe\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == f"{file}:2:9: is not text in UTF-8"
    file.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match="is too large"):
        load(file)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "mesh.yaml"
    file.write_bytes(b"\xef\xbb\xbfservice: {name: a}\n")
    assert load(file).service.name == "a"


def test_syntax_errors_name_the_line() -> None:
    error = error_of("service:\n  name: a: b\n")
    assert str(error).startswith("mesh.yaml:2:10: is not valid YAML: ")
    assert problem_of("service: {name: a}\n---\nservice: {name: b}\n").message.startswith("has more than one document")
    assert problem_of("service: {name: a}\nservice: {name: b}\n").message == "is given twice, first in line 1"


def test_problems_are_bounded() -> None:
    error = error_of("service: {name: a}\n" + "".join(f"k{i}: 1\n" for i in range(20_000)))
    assert len(error.problems) == MAX_PROBLEMS
    assert error.more
    assert str(error).endswith("and more; only the first 100 problems are shown")
    assert len(problems_of("a: 1\n" * 5000)) == MAX_PROBLEMS
    assert len(problems_of(f"service: {{name: a, {'x' * 100_000}: 1}}")) == 1


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_TEST_NAME", "from-env")
    assert load_text("service: {name: ${SIDECAR_TEST_NAME}}", "f").service.name == "from-env"


def test_importing_the_loader_is_cheap() -> None:
    code = "import sys, sidecar.config.load, sidecar.config.show; print(*sys.modules)"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ
    ).stdout
    assert not {"asyncio", "aiohttp", "difflib", "orjson", "consul"} & set(loaded.split())


def test_silence_over_tcp_is_no_fault_unless_it_is_asked_for() -> None:
    text = """
service: {name: t, app: 127.0.0.1:1}
registry: none
inbound: {bind: 127.0.0.1:1000, protocol: tcp}
upstreams:
  quiet: {bind: 127.0.0.1:1001, protocol: tcp, endpoints: ["10.0.0.1:1"], timeout: {connect: 3s}}
  asked: {bind: 127.0.0.1:1002, protocol: tcp, endpoints: ["10.0.0.1:1"], timeout: {idle: 3s}}
  http: {bind: 127.0.0.1:1003, endpoints: ["10.0.0.1:1"], timeout: {connect: 3s}}
"""
    config = config_of(text)
    assert config.inbound is not None
    assert config.inbound.policies["timeout"] == TimeoutSettings(idle=0.0)
    assert config.upstreams["quiet"].policies["timeout"] == TimeoutSettings(connect=3.0, idle=0.0)
    assert config.upstreams["asked"].policies["timeout"] == TimeoutSettings(idle=3.0)
    assert config.upstreams["http"].policies["timeout"] == TimeoutSettings(connect=3.0, idle=300.0)


def test_a_variable_of_the_environment_may_hold_the_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHOPS", 'service: {name: "${NAME}"}\nadmin: {token: {file: token}}\n')
    monkeypatch.setenv("NAME", "shop")
    (tmp_path / "token").write_text("sesame-and-more")
    monkeypatch.chdir(tmp_path)  # where relative paths start
    config = load("env:SHOPS")
    assert config.service.name == "shop"
    assert config.admin.token is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "env:SHOPS: cannot be read: there is no such variable in the environment"),
        ("service: [", "env:SHOPS:2:1: is not valid YAML"),
        ("service: {name: a\udcff}", "is not text in UTF-8"),
    ],
)
def test_what_is_wrong_with_such_a_text_is_told_with_the_variables_name(
    monkeypatch: pytest.MonkeyPatch, text: str | None, said: str
) -> None:
    monkeypatch.delenv("SHOPS", raising=False)
    if text is not None:
        monkeypatch.setenv("SHOPS", text)
    with pytest.raises(ConfigError) as error:
        load("env:SHOPS")
    assert said in str(error.value)
