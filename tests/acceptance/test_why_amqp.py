"""``GET /why/{message-id}`` of a real sidecar in front of a real RabbitMQ: why a message was held, refused, spooled, or
became a dead letter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pika
import pytest
from pamqp import commands
from pika.exceptions import NackError

from support.processes import Sidecar, get, wait_for
from support.rabbitmq import RabbitMQ, parameters_to
from support.spooled import Spooled
from support.wire import Wire

EXCHANGES = ("why.held", "why.late", "why.nacked")
RULES = [
    {"exchange": "why.held", "rate": "2/s", "burst": 1, "over": "hold"},
    {"exchange": "why.late", "rate": "1/m", "burst": 1, "over": "hold"},
    {"exchange": "why.nacked", "rate": "1/m", "burst": 1, "over": "nack"},
]
AMQP = "upstreams.rabbitmq.amqp"
MARK = b"XsecretX"


@pytest.fixture(scope="module")
def wire(rabbitmq: RabbitMQ) -> Iterator[Wire]:
    with Wire(rabbitmq.port) as found:
        yield found


@pytest.fixture(scope="module")
def spooled(rabbitmq: RabbitMQ, wire: Wire, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spooled]:
    with rabbitmq.channel() as channel:
        for name in EXCHANGES:
            channel.exchange_declare(name, "fanout")
        channel.exchange_declare("why.internal", "fanout", internal=True)
    rabbitmq.declare("why.q", durable=True)
    folder = tmp_path_factory.mktemp("why")
    with Spooled(folder, wire.port, publish=RULES, hold={"timeout": "1500ms"}) as found:
        yield found
    wire.mend()
    rabbitmq.delete("why.q")
    with rabbitmq.channel() as channel:
        for name in (*EXCHANGES, "why.internal"):
            channel.exchange_delete(name)


def told(spooled: Spooled, message_id: str, outcome: str) -> dict[str, Any]:
    """What is told of a message, once that has become of it."""

    def ask() -> dict[str, Any] | None:
        status, found = get(f"{spooled.sidecar.admin}/why/{message_id}")
        return found if status == 200 and found["error"] == outcome else None

    found: dict[str, Any] = wait_for(ask, f"{message_id} is {outcome}")
    assert found["kind"] == "message"
    assert MARK.decode() not in str(found)
    return found


def properties(message_id: str) -> commands.Basic.Properties:
    return commands.Basic.Properties(message_id=message_id, delivery_mode=2, headers={"authorization": MARK.decode()})


def test_held_and_refused(spooled: Spooled) -> None:
    with spooled.listener() as publisher:
        for exchange in EXCHANGES:
            for name in ("first", "second"):
                publisher.client.publish(1, exchange, "key", MARK, properties(f"{exchange}-{name}"))
        wait_for(lambda: len(publisher.answered()) == 2 * len(EXCHANGES), "all have an answer")
    held = told(spooled, "why.held-second", "held")
    assert "waiting for rate of why.held" in held["cause"]
    assert held["setting"] == f"{AMQP}.publish"
    late = told(spooled, "why.late-second", "nacked")
    assert "longer than it may be, for rate of why.late" in late["cause"]
    assert late["setting"] == f"{AMQP}.hold.timeout"
    assert [event["what"] for event in late["events"]] == ["held", "nacked"]
    nacked = told(spooled, "why.nacked-second", "nacked")
    assert "refused at once, as it would have had to wait for rate of why.nacked" in nacked["cause"]
    assert nacked["setting"] == f"{AMQP}.publish"
    assert (nacked["exchange"], nacked["routing_key"]) == ("why.nacked", "key")
    for exchange in EXCHANGES:  # what simply passed is not remembered
        assert get(f"{spooled.sidecar.admin}/why/{exchange}-first")[0] == 404


def test_spooled_and_given_up(wire: Wire, spooled: Spooled) -> None:
    with spooled.listener() as publisher:
        wire.cut()
        spooled.away()
        publisher.client.publish(1, "", "why.q", MARK, properties("spooled"))
        publisher.client.publish(1, "why.internal", "key", MARK, properties("dead"))
        publisher.client.publish(1, "why.internal", "key", MARK)
        wait_for(lambda: len(publisher.answered()) == 3, "all are on the disk")
        stored = told(spooled, "spooled", "spooled")
        assert stored["cause"] == "it was stored in the spool, as it would have had to wait for a broker"
        wire.mend()
        spooled.attached()
        spooled.empty()
    dead = told(spooled, "dead", "dead_lettered")
    assert "its user may not publish it; the broker said 403 ACCESS_REFUSED" in dead["cause"]
    assert [event["what"] for event in dead["events"]] == ["spooled", "dead_lettered"]

    def unnamed() -> list[dict[str, Any]]:
        found = get(f"{spooled.sidecar.admin}/why?error=dead_lettered")[1]["requests"]
        return [it for it in found if it["request_id"] != "dead"]

    (line,) = wait_for(unnamed, "the one without an id of its own")
    found = told(spooled, line["request_id"], "dead_lettered")
    assert found["sidecar_id"] == line["request_id"]
    assert [event["what"] for event in found["events"]] == ["spooled", "dead_lettered"]


def test_the_broker_itself_refuses(rabbitmq: RabbitMQ, spooled: Spooled, amqp_sidecar: Sidecar) -> None:
    """A queue that is full, and says so. With a spool its id is known; without one nothing is kept of a publish that
    has passed, so that one is in the list."""
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    rabbitmq.declare("why.full", durable=True, arguments=full)
    try:
        with spooled.listener() as publisher:
            for name in ("fits", "refused"):
                publisher.client.publish(1, "", "why.full", MARK, properties(name))
            wait_for(lambda: len(publisher.answered()) == 2, "both have an answer")
            assert len(publisher.methods(commands.Basic.Nack)) == 1
        found = told(spooled, "refused", "nacked")
        assert found["cause"].startswith("the broker refused it (basic.nack) after ")
        assert (found["setting"], found["exchange"], found["routing_key"]) == (None, "", "why.full")
        assert get(f"{spooled.sidecar.admin}/why/fits")[0] == 404

        with pika.BlockingConnection(parameters_to(amqp_sidecar.port("rabbitmq"))) as connection:
            direct = connection.channel()
            direct.confirm_delivery()
            with pytest.raises(NackError):
                direct.basic_publish("", "why.full", MARK, pika.BasicProperties(message_id="direct"))
        (line,) = wait_for(lambda: _nacked(amqp_sidecar), "its story")
        assert line["cause"].startswith("the broker refused it (basic.nack) after ")
    finally:
        rabbitmq.delete("why.full")


def _nacked(sidecar: Sidecar) -> list[dict[str, Any]]:
    found = get(f"{sidecar.admin}/why?error=nacked")[1]["requests"]
    return [line for line in found if line["routing_key"] == "why.full"]
