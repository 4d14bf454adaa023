"""Storing and forwarding in an ``amqp`` section: its keys and what they take."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from sidecar.config.load import load_text
from sidecar.config.schema import Config, json_schema
from sidecar.config.show import effective
from sidecar.core.amqp_settings import (
    Amqp,
    AmqpBatch,
    AmqpDeadLetters,
    AmqpPartition,
    AmqpPublish,
    AmqpQueue,
    AmqpSpool,
)
from support.configs import config_of, problem_of

HEAD = "service: {name: tasks}\nregistry: directory:///run/mesh\n"
ACCOUNT = "credentials: {username: sidecar, password: hunter2}"
SPOOL = f"{ACCOUNT}, spool: {{path: /s}}"


def text_of(amqp: str) -> str:
    return HEAD + f"upstreams: {{a: {{bind: 127.0.0.1:1, protocol: amqp, amqp: {{{amqp}}}}}}}\n"


def amqp_of(text: str | Config) -> Amqp:
    found = (text if isinstance(text, Config) else config_of(text_of(text))).upstreams["a"].amqp
    assert found is not None
    return found


def again(amqp: Amqp) -> Amqp:
    """What comes of it when it is shown as a file, and that is loaded."""
    plain = config_of(HEAD + "upstreams: {a: {bind: 127.0.0.1:1, protocol: amqp}}")
    upstream = dataclasses.replace(plain.upstreams["a"], amqp=amqp)
    shown = effective(dataclasses.replace(plain, upstreams={"a": upstream}))
    return amqp_of(load_text(yaml.safe_dump(shown), "effective.yaml", {}))


def test_a_whole_section() -> None:
    amqp = amqp_of(
        config_of(
            HEAD
            + """
upstreams:
  a:
    bind: 127.0.0.1:5672
    protocol: amqp
    amqp:
      credentials: {username: sidecar, password: hunter2}
      spool: {path: /var/lib/sidecar/spool, max_bytes: 2GiB, ack: broker, over: nack, window: 1000, mandatory: true}
      publish:
        - {exchange: ai.tasks, routing_key: "#", rate: 1000/s, over: spool, expires: 1h}
        - {exchange: other, expires: 2d}
      queues:
        - {name: task.decomposition.request, high: 10000, low: 8000, over: spool}
      dead_letters: {after: 3, keep: 30d}
      partitions: {ai.tasks: {count: 10, by: agent_id}, x: {count: 1, by: property:user_id}, y: {count: 2, by: key:2}}
      batch: {linger: 5ms}
"""
        )
    )
    assert amqp == Amqp(
        credentials=amqp.credentials,
        spool=AmqpSpool(
            path="/var/lib/sidecar/spool", max_bytes=2 << 30, ack="broker", over="nack", window=1000, mandatory=True
        ),
        publish=(
            AmqpPublish(exchange="ai.tasks", rate=1000.0, burst=100, over="spool", expires=3600.0),
            AmqpPublish(exchange="other", expires=2 * 86400.0),
        ),
        queues=(AmqpQueue(name="task.decomposition.request", over="spool"),),
        dead_letters=AmqpDeadLetters(after=3, keep=30 * 86400.0),
        partitions={
            "ai.tasks": AmqpPartition(count=10, by="agent_id"),
            "x": AmqpPartition(count=1, by="property:user-id"),
            "y": AmqpPartition(count=2, by="key:2"),
        },
        batch=AmqpBatch(linger=0.005),
    )
    assert dataclasses.replace(again(amqp), credentials=amqp.credentials) == amqp


def test_defaults() -> None:
    amqp = amqp_of(SPOOL)
    assert amqp.spool == AmqpSpool(path="/s")
    assert amqp.spool == AmqpSpool(path="/s", max_bytes=1 << 30, ack="spool", over="hold", window=256, mandatory=False)
    assert amqp.dead_letters == AmqpDeadLetters(after=5, keep=604800.0)
    assert amqp.partitions == {}
    assert amqp.batch is None
    assert dataclasses.replace(again(amqp), credentials=amqp.credentials) == amqp


def test_without_a_spool_all_is_as_before() -> None:
    assert amqp_of("") == Amqp() == again(Amqp())
    section = "publish: [{exchange: a, expires: 0}, {rate: 5/s}]"
    assert again(amqp_of(section)) == amqp_of(section)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("spool: {path: spool}", "spool.path"),
        ("spool: {path: ./spool}", "spool.path"),
        ("spool: {path: ''}", "spool.path"),
        ('spool: {path: "/a\\0b"}', "spool.path"),
        ("spool: {max_bytes: 1GiB}", "spool.path"),
        ("spool: /s", "spool"),
        ("spool: off", "spool"),
        ("spool: {path: /s, max_bytes: 0}", "spool.max_bytes"),
        ("spool: {path: /s, max_bytes: 1MB}", "spool.max_bytes"),
        ("spool: {path: /s, ack: client}", "spool.ack"),
        ("spool: {path: /s, over: spool}", "spool.over"),
        ("spool: {path: /s, window: 0}", "spool.window"),
        ("spool: {path: /s, window: 65536}", "spool.window"),
        ("spool: {path: /s, mandatory: 'yes'}", "spool.mandatory"),
        ("spool: {path: /s, sync: off}", "spool.sync"),
        ("spool: {path: /s}, dead_letters: {after: 0}", "dead_letters.after"),
        ("spool: {path: /s}, dead_letters: {keep: 0}", "dead_letters.keep"),
        ("spool: {path: /s}, dead_letters: {keep: 5s}", "dead_letters.keep"),
        ("spool: {path: /s}, publish: [{expires: 5ms}]", "publish[0].expires"),
        ("spool: {path: /s}, publish: [{over: drop, rate: 5/s}]", "publish[0].over"),
        ("spool: {path: /s}, queues: [{name: a, expires: 5s}]", "queues[0].expires"),
        ("partitions: {a: {count: 0, by: x}}", "partitions.a.count"),
        ("partitions: {a: {count: 1001, by: x}}", "partitions.a.count"),
        ("partitions: {a: {count: 10}}", "partitions.a.by"),
        ("partitions: {a: {by: x}}", "partitions.a.count"),
        ("partitions: {a: {count: 5, by: 'property:x'}}", "partitions.a.by"),
        ("partitions: {a: 10}", "partitions.a"),
        ("partitions: [a]", "partitions"),
        ("batch: {}", "batch.linger"),
        ("batch: {linger: 0}", "batch.linger"),
        ("batch: {linger: 2s}", "batch.linger"),
        ("batch: 5ms", "batch"),
    ],
)
def test_bad_values(text: str, path: str) -> None:
    problem = problem_of(text_of(f"{ACCOUNT}, {text}"))
    assert problem.path == f"upstreams.a.amqp.{path}"
    assert problem.line == 3
    assert problem.allowed


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("publish: [{rate: 5/s, over: spool}]", "publish[0].over"),
        ("publish: [{rate: 5/s, expires: 1h}]", "publish[0].expires"),
        ("queues: [{name: q, over: spool}]", "queues[0].over"),
        ("dead_letters: {after: 3}", "dead_letters"),
    ],
)
def test_what_takes_a_spool(text: str, path: str) -> None:
    problem = problem_of(text_of(f"{ACCOUNT}, {text}"))
    assert (problem.path, problem.message) == (f"upstreams.a.amqp.{path}", "means nothing without a spool")
    config_of(text_of(f"{SPOOL}, {text}"))
    # A spool that cannot be read is one problem, not two.
    assert problem_of(text_of(f"{ACCOUNT}, spool: 5, {text}")).path == "upstreams.a.amqp.spool"


def test_a_rule_without_a_rate_has_nothing_to_spool() -> None:
    problem = problem_of(text_of(f"{SPOOL}, publish: [{{exchange: a, over: spool}}]"))
    assert (problem.path, problem.message) == ("upstreams.a.amqp.publish[0].over", "means nothing without a rate")
    assert amqp_of(f"{SPOOL}, publish: [{{exchange: a, expires: 1h}}]").publish[0].expires == 3600.0


def test_delivering_later_needs_an_account() -> None:
    problem = problem_of(text_of("spool: {path: /s}"))
    assert problem.path == "upstreams.a.amqp.credentials"
    assert problem.found == "spool"


def test_every_message_fits_into_the_spool() -> None:
    problem = problem_of(text_of(f"{ACCOUNT}, spool: {{path: /s, max_bytes: 15MiB}}"))
    assert (problem.path, problem.allowed) == ("upstreams.a.amqp.spool.max_bytes", f"at least {16 << 20}")
    config_of(text_of(f"{ACCOUNT}, spool: {{path: /s, max_bytes: 16MiB}}"))
    config_of(text_of(f"{ACCOUNT}, spool: {{path: /s, max_bytes: 1MiB}}, max_message_size: 1MiB"))
    text = f"{ACCOUNT}, spool: {{path: /s, max_bytes: 1MiB}}, max_message_size: x"
    assert problem_of(text_of(text)).path == "upstreams.a.amqp.max_message_size"


@pytest.mark.parametrize("name", ["*", "#", "amq.default"])
def test_partitions_are_of_an_exchange(name: str) -> None:
    problem = problem_of(text_of(f"partitions: {{'{name}': {{count: 5, by: x}}}}"))
    assert problem.path.startswith("upstreams.a.amqp.partitions")
    assert problem.message == "is not an exchange whose messages can be spread"
    assert problem.found == f'"{name}"'
    for empty in ("''", "é" * 128):
        assert (
            problem_of(text_of(f"partitions: {{{empty}: {{count: 5, by: x}}}}")).message == "is not a valid name here"
        )
    assert "5" in amqp_of("partitions: {5: {count: 5, by: x}}").partitions


def test_partitions_and_batches_take_no_spool() -> None:
    amqp = amqp_of("partitions: {a: {count: 5, by: x}}, batch: {linger: 1ms}")
    assert (amqp.partitions, amqp.batch) == ({"a": AmqpPartition(count=5, by="x")}, AmqpBatch(linger=0.001))
    assert again(amqp) == amqp


def test_editors_know_the_keys() -> None:
    amqp = json_schema()["properties"]["upstreams"]["additionalProperties"]["properties"]["amqp"]["properties"]
    assert amqp["spool"]["required"] == ["path"]
    assert amqp["spool"]["properties"]["max_bytes"]["default"] == 1 << 30
    assert amqp["dead_letters"]["properties"]["keep"]["default"] == 604800
    assert amqp["publish"]["items"]["properties"]["over"]["anyOf"][0]["enum"] == ["hold", "nack", "spool"]
    assert amqp["partitions"]["additionalProperties"]["required"] == ["count", "by"]
