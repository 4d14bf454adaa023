from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.addresses import Host, HostPort, IpPort, Registry, RegistryUrl, Url, is_wildcard
from sidecar.config.amqp_values import MessageKey, ShortString, TopicPattern
from sidecar.config.document import Mapping, Node, Scalar, Sequence, parse
from sidecar.config.errors import Problem
from sidecar.config.kinds import BROKEN, Kind, Place, Reading
from sidecar.config.secrets import SecretValue
from sidecar.config.values import NAME, Boolean, Duration, Enum, Failure, Integer, Number, Rate, RateKey, Size, Text
from sidecar.core.address import Address, is_loopback
from sidecar.core.secret import Secret


def read(kind: Kind, yaml: str, environ: dict[str, str] | None = None, directory: Path = Path()) -> Any:
    """The value of a piece of YAML, or the one problem that it has."""
    problems: list[Problem] = []
    node: Node = parse(yaml, problems) or Scalar("", plain=True, line=1)
    reading = Reading(environ or {}, directory)
    value = kind.read(node, Place("key", 1, reading))
    if value is BROKEN:
        assert len(reading.problems) == 1
        return reading.problems[0]
    assert not reading.problems
    return value


GOOD: list[tuple[Kind, str, object]] = [
    (Boolean(), "true", True),
    (Boolean(), "False", False),
    (Integer(0, 20), "0", 0),
    (Integer(0, 20), "20", 20),
    (Integer(-5, 20), "-5", -5),
    (Number(0, 1), "1", 1.0),
    (Number(0, 1), "0.25", 0.25),
    (Number(0, 1), "1e-3", 0.001),
    (Duration(), "30", 30.0),
    (Duration(), "0.5", 0.5),
    (Duration(), "'30'", 30.0),
    (Duration(), "250ms", 0.25),
    (Duration(), "3ms", 0.003),
    (Duration(), "30s", 30.0),
    (Duration(), "1.5m", 90.0),
    (Duration(), "1h", 3600.0),
    (Duration(maximum="30d"), "7d", 604800.0),
    (Duration(zero=True), "0", 0.0),
    (Duration(zero=True), "0s", 0.0),
    (Size("1B", "1GiB"), "17", 17),
    (Size("1B", "1GiB"), "17B", 17),
    (Size("1B", "1GiB"), "64KiB", 65536),
    (Size("1B", "1GiB"), "1MiB", 1 << 20),
    (Size("1B", "1GiB"), "1GiB", 1 << 30),
    (Size("1B", "1GiB", zero=True), "0", 0),
    (Rate(), "100/s", 100.0),
    (Rate(), "600/m", 10.0),
    (Rate(), "3600/h", 1.0),
    (Rate(), "0.5/s", 0.5),
    (HostPort(), "127.0.0.1:8080", Address("127.0.0.1", 8080)),
    (HostPort(), "redis_1.internal:6379", Address("redis_1.internal", 6379)),
    (HostPort(), "'[::1]:8080'", Address("::1", 8080)),
    (HostPort(), "'[fe80::1%eth0]:1'", Address("fe80::1%eth0", 1)),
    (HostPort(), "a:65535", Address("a", 65535)),
    (HostPort(system_port=True), "127.0.0.1:0", Address("127.0.0.1", 0)),
    (IpPort(53), "10.0.0.2", Address("10.0.0.2", 53)),
    (IpPort(53), "10.0.0.2:5353", Address("10.0.0.2", 5353)),
    (IpPort(53), "'[fd00::2]'", Address("fd00::2", 53)),
    (IpPort(53), "'[fd00::2]:5353'", Address("fd00::2", 5353)),
    (Host(), "10.0.0.5", "10.0.0.5"),
    (Host(), "tasks.example", "tasks.example"),
    (Host(), "2001:db8::5", "2001:db8::5"),
    (Url(("http", "https")), "http://jaeger:4318", "http://jaeger:4318"),
    (Url(("http", "https")), "https://collector/v1/", "https://collector/v1/"),
    (Url(("http", "https")), "'http://[::1]:4318'", "http://[::1]:4318"),
    (Url(("http",)), "''", ""),
    (Rate(zero=True), "0/s", 0.0),
    (Rate(zero=True), "90/m", 1.5),
    (ShortString("a name"), "a.b", "a.b"),
    (ShortString("a name", empty=True), "''", ""),
    (TopicPattern(), "'#'", "#"),
    (MessageKey(), "agent_id", "agent_id"),
    (MessageKey(), "header:X-Agent Id", "X-Agent Id"),
    (MessageKey(), "'5'", "5"),
    (MessageKey(), "property:correlation-id", "property:correlation-id"),
    (MessageKey(), "property:correlation_id", "property:correlation-id"),
    (MessageKey(), "key:1", "key:1"),
    (MessageKey(), "key:128", "key:128"),
    (RegistryUrl(), "none", Registry()),
    (RegistryUrl(), "consul://c:8500", Registry(kind="consul", address=Address("c", 8500))),
    (RegistryUrl(), "consul://c", Registry(kind="consul", address=Address("c", 8500))),
    (RegistryUrl(), "consul+tls://c:1/", Registry(kind="consul", address=Address("c", 1), tls=True)),
    (RegistryUrl(), "consul+tls://c", Registry(kind="consul", address=Address("c", 8501), tls=True)),
    (RegistryUrl(), "'consul://[::1]:8500'", Registry(kind="consul", address=Address("::1", 8500))),
    (RegistryUrl(), "directory:///run/mesh", Registry(kind="directory", path="/run/mesh")),
    (Text(), "hello world", "hello world"),
    (Text(), "'12'", "12"),
    (Text(), "2024-01-01", "2024-01-01"),
    (Text(empty=True), "''", ""),
    (NAME, "task-decomposition_1.x", "task-decomposition_1.x"),
    (Enum("all", "off"), "off", "off"),
    (Enum("all", "off"), "'all'", "all"),
    (Failure("connect", "5xx"), "connect", "connect"),
    (Failure("connect", "5xx"), "5xx", "5xx"),
    (Failure("connect"), "502", "502"),
    (Failure("connect"), "'429'", "429"),
    (RateKey(), "none", "none"),
    (RateKey(), "ip", "ip"),
    (RateKey(), "path", "path"),
    (RateKey(), "header:X-Agent-Id", "header:x-agent-id"),
]

BAD: list[tuple[Kind, str, str]] = [
    (Boolean(), "yes", "is not true or false"),
    (Boolean(), "on", "is not true or false"),
    (Boolean(), "'true'", "is not true or false"),
    (Boolean(), "1", "is not true or false"),
    (Integer(1, 20), "0", "is out of range"),
    (Integer(1, 20), "21", "is out of range"),
    (Integer(1, 20), "true", "is not a whole number"),
    (Integer(1, 20), "'3'", "is not a whole number"),
    (Integer(1, 20), "3.0", "is not a whole number"),
    (Integer(1, 20), "010", "is not a whole number"),
    (Integer(1, 20), "0x10", "is not a whole number"),
    (Integer(1, 20), "1:30", "is not a whole number"),
    (Integer(1, 20), "9" * 5000, "is not a whole number"),
    (Integer(1, 20), "[3]", "has the wrong type"),
    (Number(0, 1), "1.1", "is out of range"),
    (Number(0, 1), ".nan", "is not a number"),
    (Number(0, 1), ".inf", "is not a number"),
    (Number(0, 1), "false", "is not a number"),
    (Duration(), "0", "is out of range"),
    (Duration(), "25h", "is out of range"),
    (Duration(), "1e300", "is out of range"),
    (Duration(), "-1", "is out of range"),
    (Duration(), "-1s", "is not a duration"),
    (Duration(), "1 s", "is not a duration"),
    (Duration(), "1w", "is not a duration"),
    (Duration(), "true", "is not a duration"),
    (Duration(), "", "is not a duration"),
    (Duration(), "{a: 1}", "has the wrong type"),
    (Size("1KiB", "1MiB"), "1", "is out of range"),
    (Size("1KiB", "1MiB"), "2MiB", "is out of range"),
    (Size("1KiB", "1MiB"), "1MB", "is not a size"),
    (Size("1KiB", "1MiB"), "1.5KiB", "is not a size"),
    (Size("1KiB", "1MiB"), "0", "is out of range"),
    (Rate(), "100", "is not a rate"),
    (Rate(), "0/s", "is out of range"),
    (Rate(), "100/d", "is not a rate"),
    (Rate(), "-1/s", "is not a rate"),
    (IpPort(53), "dns.test:53", "is not an IP address"),
    (IpPort(53), "fd00::2", "has more than one colon; an IPv6 address stands in brackets, [::1]:8080"),
    (IpPort(53), "10.0.0.2:0", "has no valid port"),
    (IpPort(53), "0.0.0.0", "is an address that nobody can dial"),
    (HostPort(), "8080", "has no host, only a port"),
    (HostPort(), "':8080'", "has no host; for every address of this machine write 0.0.0.0"),
    (HostPort(), "a:0", "has no valid port"),
    (HostPort(), "a:65536", "has no valid port"),
    (HostPort(), "a:²", "has no valid port"),
    (HostPort(), "a:http", "has no valid port"),
    (HostPort(), "10.0.0.256:80", "has no valid host"),
    (HostPort(), "a b:80", "has no valid host"),
    (HostPort(), "é:80", "has no valid host"),
    (HostPort(), "'::1:80'", "has more than one colon; an IPv6 address stands in brackets, [::1]:8080"),
    (HostPort(), "'[a]:80'", "has brackets around something that is not an IPv6 address"),
    (HostPort(), "'[x::y]:80'", "has no valid host"),
    (HostPort(), '"[fe80::1%a\\nb]:1"', "has no valid host"),
    (Host(), "0.0.0.0", "is an address that nobody can dial"),
    (Host(), "'::'", "is an address that nobody can dial"),
    (Host(), "a:80", "has a port; only a host stands here"),
    (Url(("http", "https")), "jaeger:4318", "is not a URL"),
    (Url(("http", "https")), "ftp://jaeger", "does not begin with a known scheme"),
    (Url(("http", "https")), "http://", "is not a valid URL"),
    (Url(("http", "https")), "http://jaeger:99999", "has no valid port"),
    (Url(("http", "https")), "http://jaeger/?token=abc", "has a query or a fragment"),
    (Url(("http", "https")), "http://ja eger", "is not a valid URL"),
    (RegistryUrl(), "consul", "is not a URL"),
    (Rate(), "0/s", "is out of range"),
    (Rate(zero=True), "0", "is not a rate"),
    (ShortString("a name", empty=True), "", "has no value"),
    (ShortString("a name"), "''", "is not allowed"),
    (ShortString("a name"), "é" * 128, "is too long"),
    (TopicPattern(), "~", "has no value (without quotes, a # begins a comment)"),
    (TopicPattern(), "a*", "has a * or # that is only a part of a word; each stands for whole words"),
    (Enum("a", "b", refused={"c": "is elsewhere"}), "c", "is elsewhere"),
    (RegistryUrl(), "etcd://e:2379", "is not a registry"),
    (RegistryUrl(), "directory://run/mesh", "is not an absolute path; directory: takes three slashes"),
    (RegistryUrl(), "consul://c:0", "has no valid port"),
    (RegistryUrl(), "consul://c/v1", "has more than host and port; datacenter and token stand in the consul section"),
    (Text(), "12", "is not text for YAML; put it in quotes: '12'"),
    (Text(), "1.10", "is not text for YAML; put it in quotes: '1.10'"),
    (Text(), "no", "is not text for YAML; put it in quotes: 'no'"),
    (Text(), "~", "has no value"),
    (Text(), "", "has no value"),
    (Text(), "''", "is not allowed"),
    (Text(), '"a\\nb"', "is not allowed"),
    (NAME, "a/b", "is not allowed"),
    (NAME, "..", "is not allowed"),
    (NAME, "a" * 129, "is not allowed"),
    (Enum("http", "tcp"), "htpp", "is not one of the known words"),
    (Enum("http", unbuilt=("grpc",)), "grpc", "is not supported by this version; supported: http"),
    (Failure("connect"), "302", "is not a known kind of failure"),
    (Failure("connect"), "600", "is not a known kind of failure"),
    (Failure("connect"), "reset", "is not a known kind of failure"),
    (RateKey(), "'header:'", "is nothing to count by"),
    (RateKey(), "header:a b", "is nothing to count by"),
    (RateKey(), "user", "is nothing to count by"),
    (MessageKey(), "~", "has no value"),
    (MessageKey(), "5", "is not text for YAML; put it in quotes: '5'"),
    (MessageKey(), "''", "is not the name of a header"),
    (MessageKey(), "'header:'", "is not the name of a header"),
    (MessageKey(), "header:a:b", "is not the name of a header"),
    (MessageKey(), "é" * 128, "is not the name of a header"),
    (MessageKey(), "property:headers", "is not a property to go by"),
    (MessageKey(), "property:priority", "is not a property to go by"),
    (MessageKey(), "key:0", "is not the number of a word"),
    (MessageKey(), "key:129", "is not the number of a word"),
    (MessageKey(), "key:01", "is not the number of a word"),
    (MessageKey(), "'key:'", "is not the number of a word"),
    (MessageKey(), "keys:2", "is nothing to go by"),
]


@pytest.mark.parametrize(("kind", "yaml", "value"), GOOD)
def test_good_values(kind: Kind, yaml: str, value: object) -> None:
    found = read(kind, yaml)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("kind", "yaml", "value"), GOOD)
def test_what_is_shown_reads_as_the_same_value(kind: Kind, yaml: str, value: object) -> None:
    shown = kind.show(read(kind, yaml))
    text = f"'{shown}'" if isinstance(shown, str) else str(shown).lower()
    assert read(kind, text) == value


@pytest.mark.parametrize(("kind", "yaml", "message"), BAD)
def test_bad_values(kind: Kind, yaml: str, message: str) -> None:
    problem = read(kind, yaml)
    assert isinstance(problem, Problem)
    assert problem.message == message
    assert problem.found
    assert problem.allowed == kind.allowed
    assert problem.line == 1


def test_a_likely_word_is_suggested() -> None:
    assert read(Enum("http", "tcp"), "htpp").nearest == "http"
    assert read(RegistryUrl(), "consol://c:1").nearest == "consul"
    assert read(Failure("connect", "timeout"), "time-out").nearest == "timeout"


def test_credentials_in_a_url_are_hidden() -> None:
    for yaml in ("consul://me:hunter2@c:8500", "consul://c:8500?token=hunter2"):
        problem = read(RegistryUrl(), yaml)
        assert "hunter2" not in problem.text("mesh.yaml")


def test_a_url_with_credentials_is_hidden_wherever_it_stands() -> None:
    url = "amqp://me:hunter2@c:5672"
    environ = {"URL": url, "HOST": "c:5672"}
    for kind in (HostPort(), NAME, Integer(1, 2), Enum("a", "b"), Rate(), RegistryUrl(), Duration()):
        for yaml in (url, "${URL}", "amqp://me:hunter2@${HOST}"):
            problem = read(kind, yaml, environ)
            assert problem.found == "(hidden, it may hold a secret)"
            assert "hunter2" not in problem.text("mesh.yaml")
    assert "hunter2" not in read(HostPort(), "me:hunter2@c:5672").text("mesh.yaml")
    assert read(NAME, "http://c/a@b").found == '"http://c/a@b"'


def test_found_is_cut_and_fit_for_a_terminal() -> None:
    problem = read(NAME, '"\\e[31m' + "x" * 500 + '"')
    assert "\x1b" not in problem.found
    assert len(problem.found) < 120


@given(st.floats(min_value=0.001, max_value=86400))
def test_durations_round_trip(value: float) -> None:
    assert read(Duration(), str(Duration().show(value))) == value


@given(st.floats(min_value=1 / 86400, max_value=1e6))
def test_rates_round_trip(value: float) -> None:
    assert read(Rate(), Rate().show(value)) == value


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost", "LOCALHOST."])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "tasks", "127.0.0.1.example"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)
    assert is_wildcard(host) == (host in ("0.0.0.0", "::"))


# Secrets


def test_a_secret_is_taken_as_it_stands() -> None:
    for text in ("hunter2", "12345", "1e5", "true", "null-ish", "0x10"):
        assert read(SecretValue(), text) == Secret(text)
        assert read(SecretValue(), "${TOKEN}", {"TOKEN": text}) == Secret(text)
    assert read(SecretValue(), "") == Secret("")
    assert read(SecretValue(), "~") == Secret("")
    assert read(SecretValue(), "${TOKEN:-}") == Secret("")
    assert read(SecretValue(), "${TOKEN}", {"TOKEN": "~"}) == Secret("~")


@pytest.mark.parametrize("content", [b"hunter2", b"hunter2\n", b"hunter2\r\n"])
def test_a_secret_from_a_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    assert read(SecretValue(), f"{{file: {tmp_path}/token}}") == Secret("hunter2")
    assert read(SecretValue(), "{file: token}", directory=tmp_path) == Secret("hunter2")
    assert read(SecretValue(), "{file: '${DIR}/token'}", {"DIR": str(tmp_path)}) == Secret("hunter2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "which is empty"),
        (b"\n", "which is empty"),
        (b"\xff\xfe", "which is not text in UTF-8"),
        (b"x" * 70_000, "which is larger than 65536 bytes"),
    ],
)
def test_a_bad_secret_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "token").write_bytes(content)
    problem = read(SecretValue(), "{file: token}", directory=tmp_path)
    assert problem.message == f"names '{tmp_path}/token', {message}"


def test_a_missing_secret_file_a_directory_and_a_pipe(tmp_path: Path) -> None:
    assert "No such file" in read(SecretValue(), "{file: none}", directory=tmp_path).message
    assert "not a regular file" in read(SecretValue(), "{file: .}", directory=tmp_path).message
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in read(SecretValue(), "{file: pipe}", directory=tmp_path).message


@pytest.mark.parametrize(
    "yaml",
    [
        "[hunter2]",
        "{fil: hunter2}",
        "{file: [hunter2]}",
        "{}",
        '"hunter2\\r\\nx-evil: 1"',
        "hunter2 ${MISSING}",
        "'hunter2 ${'",
    ],
)
def test_a_bad_secret_is_never_shown(yaml: str) -> None:
    problem = read(SecretValue(), yaml, {"OTHER": "x"})
    assert isinstance(problem, Problem)
    assert "hunter2" not in problem.text("mesh.yaml")


def test_a_secret_file_with_a_line_break_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2\nhunter3\n")
    problem = read(SecretValue(), "{file: token}", directory=tmp_path)
    assert "hunter" not in problem.text("mesh.yaml")


def test_nodes_are_what_they_say() -> None:
    problems: list[Problem] = []
    assert isinstance(parse("[a]", problems), Sequence)
    assert isinstance(parse("{a: b}", problems), Mapping)
    assert not problems
