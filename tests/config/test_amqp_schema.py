"""The keys of an ``amqp`` section: what they become, and their defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.config.load import load
from sidecar.config.schema import Config, json_schema
from sidecar.config.show import effective
from sidecar.config.traffic import Discover, Upstream
from sidecar.core.amqp_settings import Amqp, AmqpCredentials, AmqpHold, AmqpPrefetch, AmqpPublish, AmqpQueue
from sidecar.core.secret import Secret
from support.configs import config_of, problem_of

HEAD = "service: {name: tasks}\nregistry: directory:///run/mesh\n"
EXAMPLE = Path(__file__).parents[2] / "examples" / "rabbitmq.yaml"


def text_of(amqp: str, upstream: str = "") -> str:
    """A configuration with an AMQP upstream: what stands in its section, and beside it."""
    return HEAD + f"upstreams: {{rabbitmq: {{bind: 127.0.0.1:1, protocol: amqp, {upstream} amqp: {{{amqp}}}}}}}\n"


def amqp_of(amqp: str) -> Amqp:
    config = config_of(text_of(amqp))
    found = config.upstreams["rabbitmq"].amqp
    assert found is not None
    return found


def test_a_whole_section(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    (tmp_path / "mesh.yaml").write_text(
        HEAD
        + """
upstreams:
  rabbitmq:
    bind: 127.0.0.1:5672
    protocol: amqp
    discover: {service: rabbitmq}              # or endpoints: one or more brokers of a cluster
    amqp:
      vhosts: ["/", "/agents"]                 # allowed ones; default all
      credentials: {username: sidecar, password: {file: password}}
      management: http://rabbitmq:15672
      publish:                                 # first match wins
        - {exchange: ai.tasks, routing_key: "ai.inference.#", rate: 1000/s, burst: 2000, over: hold}
        - {vhost: /agents, exchange: "", rate: 5/s, over: nack}
      queues:
        - {name: task.decomposition.request, high: 10000, low: 8000, over: hold}
        - {name: other, vhost: /agents, high: 500, over: nack}
      watch_interval: 250ms
      hold: {messages: 10000, bytes: 64MiB, timeout: 30s}
      max_message_size: 16MiB
      prefetch: {default: 100, max: 1000}
      pause_on: [ollama]
  ollama: {bind: 127.0.0.1:11434}
"""
    )
    config = load(tmp_path / "mesh.yaml", {})
    upstream = config.upstreams["rabbitmq"]
    assert upstream.protocol == "amqp"
    assert upstream.discover == Discover(service="rabbitmq")
    assert upstream.amqp == Amqp(
        vhosts=("/", "/agents"),
        credentials=AmqpCredentials(username="sidecar", password=Secret("hunter2")),
        management="http://rabbitmq:15672",
        publish=(
            AmqpPublish(exchange="ai.tasks", routing_key="ai.inference.#", rate=1000.0, burst=2000),
            AmqpPublish(vhost="/agents", exchange="", rate=5.0, burst=1, over="nack"),
        ),
        queues=(
            AmqpQueue(name="task.decomposition.request", high=10_000, low=8_000),
            AmqpQueue(name="other", vhost="/agents", high=500, low=400, over="nack"),
        ),
        watch_interval=0.25,
        hold=AmqpHold(messages=10_000, bytes=64 << 20, timeout=30.0),
        max_message_size=16 << 20,
        prefetch=AmqpPrefetch(default=100, max=1000),
        pause_on=("ollama",),
    )
    assert "hunter2" not in repr(config)
    assert "hunter2" not in repr(effective(config))
    assert effective(config)["upstreams"]["rabbitmq"]["amqp"]["credentials"]["password"] == "***"


def test_without_a_section_all_is_at_its_default() -> None:
    plain = config_of(HEAD + "upstreams: {rabbitmq: {bind: 127.0.0.1:1, protocol: amqp}}")
    assert plain.upstreams["rabbitmq"].amqp == amqp_of("") == Amqp()


@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_other_protocols_have_no_section(protocol: str) -> None:
    config = config_of(HEAD + f"upstreams: {{a: {{bind: 127.0.0.1:1, protocol: {protocol}}}}}")
    assert config.upstreams["a"].amqp is None
    assert "amqp" not in effective(config)["upstreams"]["a"]


@pytest.mark.parametrize(
    ("rate", "burst"), [("1000/s", 100), ("5/s", 1), ("600/m", 1), ("15/s", 2), ("0.5/s", 1), ("1000000/s", 100_000)]
)
def test_the_default_burst_is_a_tenth_of_a_second(rate: str, burst: int) -> None:
    assert amqp_of(f"publish: [{{rate: {rate}}}]").publish[0].burst == burst


def test_a_rule_may_set_no_rate() -> None:
    assert amqp_of("publish: [{exchange: a}]").publish == (AmqpPublish(exchange="a"),)
    assert amqp_of("publish: [{exchange: a, rate: 0/s}]").publish == (AmqpPublish(exchange="a"),)


@pytest.mark.parametrize(("high", "low"), [(1, 0), (5, 4), (10_000, 8_000), (12, 9)])
def test_the_default_of_low_follows_high(high: int, low: int) -> None:
    section = f"credentials: {{username: a, password: b}}, queues: [{{name: q, high: {high}}}]"
    assert amqp_of(section).queues[0].low == low


def test_the_default_of_prefetch_is_within_its_maximum() -> None:
    assert amqp_of("prefetch: {max: 50}").prefetch == AmqpPrefetch(default=50, max=50)
    assert amqp_of("prefetch: {max: 500}").prefetch == AmqpPrefetch(default=500, max=500)
    assert amqp_of("prefetch: {max: 0}").prefetch == AmqpPrefetch(default=0, max=0)
    assert amqp_of("prefetch: {default: 0, max: 0}").prefetch == AmqpPrefetch(default=0, max=0)


def test_names_are_short_strings() -> None:
    assert amqp_of(f"vhosts: ['{'é' * 127}x']").vhosts == ("é" * 127 + "x",)
    problem = problem_of(text_of(f"vhosts: ['{'é' * 128}']"))
    assert (problem.path, problem.message) == ("upstreams.rabbitmq.amqp.vhosts[0]", "is too long")
    assert problem_of(text_of(f"publish: [{{exchange: '{'x' * 256}'}}]")).message == "is not allowed"
    assert problem_of(text_of("vhosts: ['']")).path == "upstreams.rabbitmq.amqp.vhosts[0]"
    assert problem_of(text_of("vhosts: [7]")).message == "is not text for YAML; put it in quotes: '7'"


@pytest.mark.parametrize(
    "text", ["''", "'#'", "'*'", "a", "a.b", "'a.*.#'", "'#.a'", "'..'", "celery@host.pidbox", "é"]
)
def test_patterns(text: str) -> None:
    rule = amqp_of(f"publish: [{{exchange: {text}, routing_key: {text}}}]").publish[0]
    assert rule.exchange == rule.routing_key == text.strip("'")


@pytest.mark.parametrize("text", ["a*", "'*a'", "a#", "'##'", "'a.b*.c'", "'**'", "a.#b"])
def test_a_star_is_a_whole_word(text: str) -> None:
    for key in ("exchange", "routing_key"):
        problem = problem_of(text_of(f"publish: [{{{key}: {text}}}]"))
        assert problem.path == f"upstreams.rabbitmq.amqp.publish[0].{key}"
        assert "whole words" in problem.message


def test_a_pattern_that_yaml_takes_for_a_comment() -> None:
    text = HEAD + (
        "upstreams:\n  a:\n    bind: 127.0.0.1:1\n    protocol: amqp\n"
        "    amqp:\n      publish:\n        - routing_key: #\n          rate: 1/s\n"
    )
    problem = problem_of(text)
    assert problem.path == "upstreams.a.amqp.publish[0].routing_key"
    assert "quotes" in problem.message
    assert "quotes" in problem.allowed


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("vhosts: []", "vhosts"),
        ("vhosts: /", "vhosts"),
        ("publish: [{rate: 5}]", "publish[0].rate"),
        ("publish: [{rate: 2000000/s}]", "publish[0].rate"),
        ("publish: [{rate: 5/s, burst: 0}]", "publish[0].burst"),
        ("publish: [{over: hold, rate: 5/s, routing_keys: a}]", "publish[0].routing_keys"),
        ("publish: [{rate: 5/s, over: drop}]", "publish[0].over"),
        ("publish: [a]", "publish[0]"),
        ("queues: [{high: 5}], credentials: {username: a, password: b}", "queues[0].name"),
        ("queues: [{name: a, high: 0}], credentials: {username: a, password: b}", "queues[0].high"),
        ("queues: [{name: a, low: -1}], credentials: {username: a, password: b}", "queues[0].low"),
        ("credentials: {username: a}", "credentials.password"),
        ("credentials: {password: a}", "credentials.username"),
        ("credentials: {username: '', password: a}", "credentials.username"),
        ("credentials: {username: a, password: ''}", "credentials.password"),
        ("credentials: {username: a, password: ~}", "credentials.password"),
        ("management: amqp://c:15672, credentials: {username: a, password: b}", "management"),
        ("watch_interval: 0", "watch_interval"),
        ("watch_interval: 1ms", "watch_interval"),
        ("hold: {messages: 0}", "hold.messages"),
        ("hold: {bytes: 0}", "hold.bytes"),
        ("hold: {timeout: -1}", "hold.timeout"),
        ("hold: off", "hold"),
        ("max_message_size: 1GiB", "max_message_size"),
        ("max_message_size: 0", "max_message_size"),
        ("prefetch: {default: 65536}", "prefetch.default"),
        ("prefetch: 100", "prefetch"),
        ("pause_on: ollama", "pause_on"),
    ],
)
def test_bad_values(text: str, path: str) -> None:
    problem = problem_of(text_of(text))
    assert problem.path == f"upstreams.rabbitmq.amqp.{path}"
    assert problem.line == 3
    assert problem.allowed


def test_the_section_is_not_a_policy() -> None:
    text = HEAD + "upstreams: {a: {bind: 127.0.0.1:1, protocol: amqp, amqp: off}}"
    assert problem_of(text).path == "upstreams.a.amqp"


def test_editors_know_the_section() -> None:
    upstream = json_schema()["properties"]["upstreams"]["additionalProperties"]["properties"]
    assert "amqp" in upstream["protocol"]["anyOf"][0]["enum"]
    amqp = upstream["amqp"]
    assert amqp["additionalProperties"] is False
    assert set(amqp["properties"]["credentials"]["required"]) == {"username", "password"}
    assert "default" not in amqp["properties"]["credentials"]["properties"]["password"]
    assert "default" not in amqp["properties"]["publish"]["items"]["properties"]["burst"]
    assert amqp["properties"]["watch_interval"]["default"] == 0.25
    assert amqp["properties"]["publish"]["items"]["properties"]["routing_key"]["default"] == "#"


# The example


def example() -> Config:
    return load(EXAMPLE, {})


def test_the_example_is_accepted_as_it_stands() -> None:
    rabbitmq = example().upstreams["rabbitmq"]
    assert rabbitmq.protocol == "amqp"
    assert rabbitmq.amqp is not None
    assert rabbitmq.amqp.publish[0].rate == 1000.0
    assert load(EXAMPLE, {"RABBITMQ_PASSWORD": "hunter2"}) != example()


def test_the_example_has_every_key_of_the_section() -> None:
    text = EXAMPLE.read_text()
    for name in json_schema()["properties"]["upstreams"]["additionalProperties"]["properties"]["amqp"]["properties"]:
        assert re.search(rf"^      {name}:", text, re.MULTILINE), name


def test_the_values_of_the_example_that_are_defaults_are_those_of_the_model() -> None:
    """The comments call some of them the default, so they are to stay it."""
    rabbitmq: Upstream = example().upstreams["rabbitmq"]
    assert rabbitmq.amqp is not None
    default = Amqp()
    for name in ("watch_interval", "hold", "max_message_size"):
        assert getattr(rabbitmq.amqp, name) == getattr(default, name), name
    assert rabbitmq.amqp.queues[1].low == 400


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        ("", 0),
        ("bulkhead: {max_pending: 5},", 0),
        ("bulkhead: {max_connections: 7},", 7),
    ],
)
def test_by_default_connections_are_bounded_as_a_brokers_are(upstream: str, expected: int) -> None:
    bulkhead = config_of(text_of("", upstream)).upstreams["rabbitmq"].policies["bulkhead"]
    assert bulkhead is not None
    assert bulkhead.max_connections == expected
    assert config_of(text_of("", "bulkhead: off,")).upstreams["rabbitmq"].policies["bulkhead"] is None
