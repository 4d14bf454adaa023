"""RabbitMQ's definitions in ``deploy``: the vhosts, exchanges and queues of the reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.processes import ROOT

FILE = ROOT / "deploy" / "rabbitmq" / "definitions.json"
GIVEN: dict[str, list[dict[str, Any]]] = json.loads(FILE.read_text())
#: As the reports have them: in each vhost, exchanges, and queues.
EXPECTED = {
    "/sutazai": (
        {"workflows.topic"},
        {f"task.decomposition.{it}" for it in ("request", "result", "error")}
        | {f"workspace.{it}" for it in ("create", "destroy", "status")}
        | {"ollama.requests"},
    ),
    "/agents": (
        {"agents.topic"},
        {f"agent.{it}.tasks" for it in ("aider", "autogpt", "crewai", "letta")}
        | {f"agent.tasks.{it}" for it in range(10)},
    ),
    "/monitoring": ({"monitoring.topic"}, {"monitoring.events"}),
}
DEAD = "dead.letters"


def named(kind: str, vhost: str) -> set[str]:
    return {it["name"] for it in GIVEN[kind] if it["vhost"] == vhost}


def test_they_are_those_of_the_reports_and_a_place_for_dead_letters() -> None:
    assert {it["name"] for it in GIVEN["vhosts"]} == {"/", *EXPECTED}
    for vhost, (exchanges, queues) in EXPECTED.items():
        assert named("exchanges", vhost) == exchanges | {DEAD}
        assert named("queues", vhost) == queues | {DEAD}


def test_all_outlives_a_node() -> None:
    assert {it["arguments"]["x-queue-type"] for it in GIVEN["queues"]} == {"quorum"}
    assert all(it["durable"] and not it["auto_delete"] for it in GIVEN["queues"] + GIVEN["exchanges"])


def test_every_queue_is_led_to_and_bounded() -> None:
    bound = {(it["vhost"], it["destination"]) for it in GIVEN["bindings"]}
    assert bound == {(it["vhost"], it["name"]) for it in GIVEN["queues"]}
    for policy in GIVEN["policies"]:
        assert policy["definition"].keys() >= {"message-ttl", "max-length", "overflow"}
        if "dead-letter-strategy" in policy["definition"]:
            assert policy["definition"]["overflow"] == "reject-publish", "RabbitMQ's condition for at-least-once"


def test_there_is_no_user_in_it() -> None:
    assert not GIVEN.keys() & {"users", "permissions"}


def test_the_configuration_of_a_node_joins_those_that_there_are() -> None:
    text = (Path(FILE).parent / "cluster.conf").read_text()
    for name in ("rabbitmq", "rabbitmq-2", "rabbitmq-3"):
        assert f"= rabbit@{name}\n" in text
