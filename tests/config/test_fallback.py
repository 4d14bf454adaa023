"""The steps of a fallback in a file: what is said of mistakes in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.config.errors import ConfigError, Problem
from sidecar.config.load import load
from sidecar.config.schema import Config
from sidecar.config.show import effective

HEAD = """
service: {name: t}
upstreams:
  simple: {bind: "127.0.0.1:2000", endpoints: ["127.0.0.1:2001"]}
  cache: {bind: "127.0.0.1:3000", protocol: tcp, endpoints: ["127.0.0.1:3001"]}
  tasks:
    bind: "127.0.0.1:1000"
    endpoints: ["127.0.0.1:1001"]
"""


def loaded(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "sidecar.yaml"
    path.write_text(HEAD + text)
    return load(path)


def problems(tmp_path: Path, text: str) -> list[Problem]:
    with pytest.raises(ConfigError) as found:
        loaded(tmp_path, text)
    return list(found.value.problems)


def test_the_contracts_example(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        """
    wait: {timeout: 10s, max: 100}
    fallback:
      - {on: [circuit_open, no_endpoints, connect_failed, timeout, overloaded, 5xx], upstream: simple}
      - {on: [circuit_open, no_endpoints], stale: 1h}
      - on: [circuit_open]
        answer: {status: 200, headers: {content-type: application/json}, body: '{"mode":"simple"}'}
    routes:
      - {match: {path: /a}, fallback: off, wait: off}
      - {match: {path: /b}, fallback: [{on: [503], answer: {}}]}
""",
    )
    tasks = config.upstreams["tasks"]
    assert [it.kind for it in tasks.policies["fallback"]] == ["upstream", "stale", "answer"]
    assert tasks.policies["wait"].timeout == 10.0
    shown = effective(config)["upstreams"]["tasks"]
    assert shown["fallback"][0]["upstream"] == "simple"
    assert shown["fallback"][1] == {"on": ["circuit_open", "no_endpoints"], "stale": 3600}
    assert shown["routes"][0]["fallback"] == shown["routes"][0]["wait"] == "off"
    assert shown["routes"][1]["fallback"][0]["on"] == [503]
    assert effective(config)["upstreams"]["simple"]["fallback"] == "off"


@pytest.mark.parametrize(("step", "path", "message", "found"), [
    ("{on: [503]}", "", "does not say what answers", ""),
    ("{on: [503], stale: 1h, upstream: simple}", "", "does more than one thing", "upstream and stale"),
    ("{on: [503], upstream: simpel}", ".upstream", "is no upstream of this sidecar", "simpel"),
    ("{on: [503], upstream: tasks}", ".upstream", "is the upstream itself", "tasks"),
    ("{on: [503], upstream: cache}", ".upstream", "speaks another protocol", "cache: tcp"),
    ("{on: [503], answer: {headers: {Content-Length: '3'}}}", ".answer.headers",
     "has a field that the sidecar itself adds, or none may have", "content-length"),
    ("{on: [503], answer: {headers: {x-sidecar-a: b}}}", ".answer.headers",
     "has a field that the sidecar itself adds, or none may have", "x-sidecar-a"),
    ("{on: [503], answer: {status: 204, body: text}}", ".answer.body", "is not for the status 204", ""),
    ("{on: [nonsense], stale: 1h}", ".on[0]", "is not a known kind of failure", '"nonsense"'),
    ('{on: [503], answer: {headers: {a: "x\\r\\ny: z"}}}', ".answer.headers.a", "is not allowed", None),
    ("{on: [503], answer: {status: 101}}", ".answer.status", "is out of range", "101"),
])  # fmt: skip
def test_mistakes_in_a_step(tmp_path: Path, step: str, path: str, message: str, found: str | None) -> None:
    (problem,) = problems(tmp_path, f"    fallback: [{step}]\n")
    assert problem.path == f"upstreams.tasks.fallback[0]{path}"
    assert problem.message == message
    assert found is None or problem.found == found
    assert problem.allowed


def test_the_nearest_known_upstream_is_named(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "    routes: [{match: {path: /a}, fallback: [{on: [503], upstream: simpel}]}]\n")
    assert problem.path == "upstreams.tasks.routes[0].fallback[0].upstream"
    assert problem.nearest == "simple"
    assert problem.allowed == "simple, cache"


def test_steps_in_a_circle(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """    fallback: [{on: [503], upstream: b}]
  b: {bind: "127.0.0.1:1100", endpoints: ["127.0.0.1:1101"], fallback: [{on: [503], upstream: a}]}
  a:
    bind: "127.0.0.1:1200"
    endpoints: ["127.0.0.1:1201"]
    routes: [{match: {path: /a}, fallback: [{on: [503], upstream: tasks}]}]
""",
    )
    assert [it.message for it in found] == ["leads in a circle"]
    assert found[0].found == "a → tasks → b → a"


def test_what_is_no_circle(tmp_path: Path) -> None:
    loaded(
        tmp_path,
        """    fallback: [{on: [503], upstream: b}, {on: [503], upstream: simple}]
  b: {bind: "127.0.0.1:1100", endpoints: ["127.0.0.1:1101"], fallback: [{on: [503], upstream: simple}]}
""",
    )


@pytest.mark.parametrize(("protocol", "key", "words"), [
    ("amqp", "wait: {timeout: 1s}", "amqp.spool"),
    ("amqp", "fallback: [{on: [503], stale: 1h}]", "amqp.spool"),
    ("tcp", "fallback: [{on: [503], stale: 1h}]", "connections can wait"),
])  # fmt: skip
def test_other_protocols_have_other_means(tmp_path: Path, protocol: str, key: str, words: str) -> None:
    (problem,) = problems(tmp_path, f"    protocol: {protocol}\n    {key}\n")
    assert problem.message.startswith(f"is not for protocol {protocol}")
    assert words in problem.message


def test_a_port_of_tcp_can_wait_and_an_inbound_one_cannot(tmp_path: Path) -> None:
    loaded(tmp_path, "    protocol: tcp\n    wait: {}\n")
    found = problems(tmp_path, '    wait: {}\ninbound: {bind: "127.0.0.1:900", wait: {}, fallback: []}\n')
    assert {it.path: it.message for it in found if "inbound" in it.path} == {
        "inbound.wait": "is for upstreams only: who calls this service has a sidecar that can wait",
        "inbound.fallback": "is for upstreams only: who calls this service knows what to do without it",
    }
