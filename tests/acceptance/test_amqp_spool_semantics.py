"""What each kind of client sees of an outage when there is a spool, and in which order and on which conditions what was
spooled reaches a real RabbitMQ."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pika
import pytest
from pamqp import commands
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker, ProbableAccessDeniedError

from support.amqp_clients.raw import BODY, HEADER, METHOD, Listener
from support.patience import PATIENCE
from support.processes import command, wait_for
from support.rabbitmq import RabbitMQ, parameters_to
from support.spooled import Spooled, bodies
from support.wire import Wire

SOAK = os.environ.get("SIDECAR_SOAK") == "1"
Properties = commands.Basic.Properties
DEEP = 50
#: So many tokens are kept for a machine that is late with them.
BURST = 20


@pytest.fixture(scope="module")
def wire(rabbitmq: RabbitMQ) -> Iterator[Wire]:
    with Wire(rabbitmq.port) as found:
        yield found


@pytest.fixture(scope="module")
def port(rabbitmq: RabbitMQ, wire: Wire, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spooled]:
    rules = [{"exchange": "spool.paced", "rate": "100/s", "burst": BURST, "over": "spool"}]
    queues = [{"name": "spool.deep", "high": DEEP, "low": 40, "over": "spool"}]
    rabbitmq.declare("spool.q", durable=True)
    rabbitmq.add_user("bob", "secret")
    rabbitmq.add_user("eve", "secret")
    with Spooled(tmp_path_factory.mktemp("spool"), wire.port, publish=rules, queues=queues) as found:
        yield found
        assert not found.errors()
    rabbitmq.delete("spool.q")


@pytest.fixture
def spooled(rabbitmq: RabbitMQ, wire: Wire, port: Spooled) -> Iterator[Spooled]:
    """With a broker, and everything delivered; and so again afterwards, whatever has become of the test."""
    yield port
    wire.mend()
    port.attached()
    rabbitmq.purge("spool.q")


def away(wire: Wire, spooled: Spooled) -> None:
    wire.cut()
    spooled.away()


def back(wire: Wire, spooled: Spooled) -> None:
    wire.mend()
    spooled.attached()


def deliveries(listener: Listener, count: int) -> list[commands.Basic.Deliver]:
    """So many of them, and no more."""
    wait_for(lambda: len(listener.methods(commands.Basic.Deliver)) >= count, f"{count} deliveries")
    time.sleep(0.1)
    found = listener.methods(commands.Basic.Deliver)
    assert len(found) == count
    return found


def said(listener: Listener, kind: Any, count: int = 1, seconds: float = PATIENCE) -> Any:
    """The last of so many methods of that kind."""
    wait_for(lambda: len(listener.methods(kind)) >= count, f"{count} × {kind.name}", seconds)
    return listener.methods(kind)[-1]


def login(spooled: Spooled, user: str, password: str) -> pika.BlockingConnection:
    return pika.BlockingConnection(parameters_to(spooled.port, credentials=pika.PlainCredentials(user, password)))


def patient_login(spooled: Spooled, user: str, password: str) -> pika.BlockingConnection:
    """As a client does that tries again: right after an outage it may come too early."""
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            return login(spooled, user, password)
        except AMQPConnectionError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.1)


# -- consumers


def test_a_consumer_goes_on(rabbitmq: RabbitMQ, wire: Wire, spooled: Spooled) -> None:
    with rabbitmq.channel() as channel:
        for number in range(10):
            channel.basic_publish("", "spool.q", b"%d" % number)
    client = spooled.client(confirms=False)
    client.call(1, commands.Basic.Qos(prefetch_count=4), commands.Basic.QosOk)
    client.call(1, commands.Basic.Consume(queue="spool.q", consumer_tag="mine"), commands.Basic.ConsumeOk)
    with Listener(client) as consumer:
        deliveries(consumer, 4)
        away(wire, spooled)
        back(wire, spooled)
        found = deliveries(consumer, 8)
        assert [each.delivery_tag for each in found] == list(range(1, 9))
        assert [each.redelivered for each in found] == [False] * 4 + [True] * 4
        assert {each.consumer_tag for each in found} == {"mine"}
        # What is said of the lost ones is about nothing.
        consumer.send(commands.Basic.Ack(3), commands.Basic.Reject(1), commands.Basic.Nack(2, False, True))
        consumer.send(commands.Basic.Ack(4, True))
        deliveries(consumer, 8)
        consumer.send(commands.Basic.Ack(6, True))
        deliveries(consumer, 10)
        # Without a broker it can change its mind.
        away(wire, spooled)
        consumer.send(commands.Basic.Cancel("mine"), commands.Basic.Get(queue="spool.q"))
        consumer.send(commands.Basic.Consume(queue="spool.q", consumer_tag="other"))
        said(consumer, commands.Basic.GetEmpty)
        said(consumer, commands.Basic.ConsumeOk)
        back(wire, spooled)
        assert [each.consumer_tag for each in deliveries(consumer, 14)[10:]] == ["other"] * 4
        consumer.send(commands.Basic.Ack(0, True))
        assert [each.redelivered for each in deliveries(consumer, 18)[14:]] == [False] * 4
        assert consumer.error is None
        assert not consumer.methods(commands.Channel.Close)


def test_what_only_the_broker_can_name_is_gone(wire: Wire, spooled: Spooled) -> None:
    client = spooled.client(confirms=False)
    name = client.queue()
    with Listener(client) as listener:
        away(wire, spooled)
        wire.mend()
        close = said(listener, commands.Connection.Close)
        assert close.reply_code == 320
        assert name in close.reply_text
        listener.send_on(0, commands.Connection.CloseOk())
    wait_for(lambda: not spooled.view()["connections"], "it has gone")


def test_an_exclusive_queue_of_its_own_is_made_again(rabbitmq: RabbitMQ, wire: Wire, spooled: Spooled) -> None:
    client = spooled.client(confirms=False)
    client.queue(name="spool.mine", exclusive=True)
    client.call(1, commands.Basic.Consume(queue="spool.mine", consumer_tag="mine"), commands.Basic.ConsumeOk)
    with Listener(client) as listener:
        away(wire, spooled)
        back(wire, spooled)
        with rabbitmq.channel() as channel:
            channel.basic_publish("", "spool.mine", b"to you")
        assert deliveries(listener, 1)[0].consumer_tag == "mine"


# -- clients that come meanwhile, and what they ask


def test_known_users_come_in_and_others_do_not(rabbitmq: RabbitMQ, wire: Wire, spooled: Spooled) -> None:
    patient_login(spooled, "bob", "secret").close()
    away(wire, spooled)
    bob = patient_login(spooled, "bob", "secret")
    channel = bob.channel()
    channel.confirm_delivery()
    channel.basic_publish("", "spool.q", b"from bob", pika.BasicProperties(user_id="bob"))
    for user, password in (("bob", "wrong"), ("eve", "secret"), ("nobody", "secret")):
        with pytest.raises(ProbableAccessDeniedError):  # of all clients, none gives up after an end at this point
            login(spooled, user, password)
    with pytest.raises(ChannelClosedByBroker, match=r"406.*set to 'eve' but authenticated user was 'bob'"):
        channel.basic_publish("", "spool.q", b"as eve", pika.BasicProperties(user_id="eve"))
    bob.close()
    wire.mend()
    assert bodies(rabbitmq, "spool.q", 1) == [b"from bob"]
    spooled.empty()


def test_who_may_not_write_does_not_write_by_way_of_the_spool(rabbitmq: RabbitMQ, wire: Wire, spooled: Spooled) -> None:
    rabbitmq.add_user("reader", "secret", permissions=("^$", "^$", ".*"))
    reader = patient_login(spooled, "reader", "secret")
    away(wire, spooled)
    channel = reader.channel()
    channel.confirm_delivery()
    channel.basic_publish("", "spool.q", b"by reader")
    wire.mend()
    letter = wait_for(lambda: [it for it in spooled.letters() if it["user"] == "reader"], "it is a dead letter", 30)[0]
    assert (letter["reason"], letter["code"]) == ("access_refused", 403)
    reader.close()
    spooled.empty()
    assert bodies(rabbitmq, "spool.q", 0) == []


def test_it_goes_as_its_user_once_that_one_has_logged_in(rabbitmq: RabbitMQ, wire: Wire, spooled: Spooled) -> None:
    """Passwords are not on the disk: after a restart, the sidecar waits for the login of whoever it is from."""
    bob = patient_login(spooled, "bob", "secret")
    away(wire, spooled)
    channel = bob.channel()
    channel.confirm_delivery()
    channel.basic_publish("", "spool.q", b"before the restart")
    spooled.sidecar.kill()
    wire.mend()
    spooled.start()
    wait_for(lambda: spooled.spool()["parked"] == 1, "it waits for bob")
    patient_login(spooled, "bob", "secret").close()
    assert bodies(rabbitmq, "spool.q", 1) == [b"before the restart"]
    spooled.empty()
    with pytest.raises(AMQPConnectionError):
        bob.process_data_events(1)


def test_declarations(rabbitmq: RabbitMQ, wire: Wire, spooled: Spooled) -> None:
    exchange = commands.Exchange.Declare(exchange="spool.topic", exchange_type="topic", durable=True)
    bind = commands.Queue.Bind(queue="spool.q", exchange="spool.topic", routing_key="a.#")
    with spooled.client() as before:
        before.call(1, exchange, commands.Exchange.DeclareOk)
        before.queue(name="spool.q", durable=True)
        before.call(1, bind, commands.Queue.BindOk)
    away(wire, spooled)
    client = spooled.client()
    client.call(1, exchange, commands.Exchange.DeclareOk)
    client.queue(name="spool.q", durable=True)
    client.call(1, bind, commands.Queue.BindOk)
    with Listener(client) as listener:
        listener.client.publish(1, "spool.topic", "a.b", b"bound")
        said(listener, commands.Basic.Ack)
        listener.send(commands.Queue.Declare(queue="spool.new", durable=True))
        listener.client.publish(1, "", "spool.new", b"behind")
        time.sleep(0.2)
        assert not listener.methods(commands.Queue.DeclareOk)
        assert listener.answered() == {1}
        back(wire, spooled)
        said(listener, commands.Queue.DeclareOk)
        said(listener, commands.Basic.Ack, 2)
    assert bodies(rabbitmq, "spool.new", 1) == [b"behind"]
    assert bodies(rabbitmq, "spool.q", 1) == [b"bound"]
    rabbitmq.delete("spool.new")
    with rabbitmq.channel() as channel:
        channel.exchange_delete("spool.topic")


# -- messages


def test_priorities_and_expiration(rabbitmq: RabbitMQ, wire: Wire, spooled: Spooled) -> None:
    away(wire, spooled)
    with spooled.listener() as publisher:
        for number, priority in enumerate((0, 9, 5, 9, 0)):
            publisher.client.publish(1, "", "spool.q", b"%d" % number, Properties(priority=priority))
        publisher.client.publish(1, "", "spool.q", b"too late", Properties(expiration="300"))
        mine = Properties(expiration="60000", message_id="mine", headers={"a": 1})
        publisher.client.publish(1, "", "spool.q", b"in time", mine)
        wait_for(lambda: len(publisher.answered()) == 7, "all are on the disk")
        time.sleep(0.4)
        back(wire, spooled)
        spooled.empty()
    with rabbitmq.channel() as channel:
        found = [channel.basic_get("spool.q", auto_ack=True) for _ in range(7)]
    assert [body for _, _, body in found] == [b"1", b"3", b"2", b"0", b"4", b"in time", None]
    last = found[5][1]
    assert last is not None
    assert 50_000 < int(last.expiration) < 59_700
    assert last.message_id == "mine"
    assert {"a", "x-sidecar-id", "traceparent"} <= set(last.headers)
    assert len({each[1].headers["x-sidecar-id"] for each in found[:6] if each[1] is not None}) == 6
    letters = [letter for letter in spooled.letters() if letter["reason"] == "expired"]
    assert len(letters) == 1
    spooled.post(f"dead-letters/{letters[0]['id']}/drop")


def test_dead_letters(rabbitmq: RabbitMQ, wire: Wire, spooled: Spooled) -> None:
    """What the broker refuses, and how it is brought back."""
    rabbitmq.declare("spool.later", durable=True)
    with rabbitmq.channel() as channel:
        channel.exchange_declare("spool.internal", "fanout", internal=True)
    away(wire, spooled)
    with spooled.listener() as publisher:
        publisher.client.publish(1, "spool.internal", "key", b"refused")
        if SOAK:  # an exchange may be missing for a while after a restart
            publisher.client.publish(1, "spool.missing", "key", b"missing")
        publisher.publish("spool.q", b"good")
        wait_for(lambda: len(publisher.answered()) == (3 if SOAK else 2), "all are on the disk")
    back(wire, spooled)
    spooled.empty()
    assert set(bodies(rabbitmq, "spool.q", 1)) == {b"good"}
    letters = {letter["exchange"]: letter for letter in spooled.letters()}
    refused = letters["spool.internal"]
    assert (refused["reason"], refused["code"], refused["routing_key"]) == ("access_refused", 403, "key")
    assert refused["text"].startswith("ACCESS_REFUSED")
    assert refused["trace"].startswith("00-")
    if SOAK:
        assert (letters["spool.missing"]["reason"], letters["spool.missing"]["code"]) == ("not_found", 404)
    code, listed = command(spooled.folder, "spool", "list", "--admin", spooled.sidecar.admin)
    assert code == 0, listed
    assert "access_refused" in listed
    assert "spool.internal" in listed

    with rabbitmq.channel() as channel:
        channel.exchange_delete("spool.internal")
        channel.exchange_declare("spool.internal", "fanout")
        channel.queue_bind("spool.later", "spool.internal")
    assert spooled.post(f"dead-letters/{refused['id']}/replay")[0] == 200
    assert bodies(rabbitmq, "spool.later", 1) == [b"refused"]
    assert "spool.internal" not in {letter["exchange"] for letter in spooled.letters()}
    for letter in spooled.letters():
        spooled.post(f"dead-letters/{letter['id']}/drop")
    rabbitmq.delete("spool.later")
    with rabbitmq.channel() as channel:
        channel.exchange_delete("spool.internal")


def test_what_a_client_has_left_behind_is_delivered(rabbitmq: RabbitMQ, wire: Wire, spooled: Spooled) -> None:
    away(wire, spooled)
    for confirms in (True, False):
        with spooled.client(confirms=confirms) as client:
            for number in range(20):
                client.publish(1, "", "spool.q", b"%d" % (number + 20 * confirms))
            if confirms:
                client.close()
    wire.mend()
    assert sorted(bodies(rabbitmq, "spool.q", 40), key=int) == [b"%d" % number for number in range(40)]


@pytest.mark.parametrize("how", ["leaves", "closes its channel", "closes"])
def test_more_is_left_behind_than_waits_for_the_disk_at_once(
    rabbitmq: RabbitMQ, wire: Wire, spooled: Spooled, how: str
) -> None:
    away(wire, spooled)
    with spooled.client(confirms=False) as client:
        padding = b" " * 100_000
        client.send_bytes(b"".join(client.publishing(1, "", "spool.q", b"%d" % n + padding) for n in range(300)))
        if how == "closes its channel":
            client.call(1, commands.Channel.Close(200, "", 0, 0), commands.Channel.CloseOk)
        elif how == "closes":
            client.close()
    wait_for(lambda: not spooled.view()["connections"], "it has gone")
    assert spooled.spool()["messages"] == 300, "the spool has all that it has left behind"
    wire.mend()
    assert [int(body) for body in bodies(rabbitmq, "spool.q", 300)] == list(range(300))


def test_mandatory_ones_and_requests_wait(rabbitmq: RabbitMQ, wire: Wire, spooled: Spooled) -> None:
    """They are about the very connection."""
    client = spooled.client()
    client.call(
        1,
        commands.Basic.Consume(queue="amq.rabbitmq.reply-to", consumer_tag="answers", no_ack=True),
        commands.Basic.ConsumeOk,
    )
    with Listener(client) as listener:
        away(wire, spooled)
        client.publish(1, "", "spool.nowhere", b"mandatory", mandatory=True)
        client.publish(1, "", "spool.q", b"request", Properties(reply_to="amq.rabbitmq.reply-to"))
        client.publish(1, "spool.other", "key", b"third")
        wait_for(listener.answered, "the third is on the disk")
        time.sleep(0.3)
        assert listener.answered() == {3}
        assert spooled.spool()["messages"] == 1
        back(wire, spooled)
        wait_for(lambda: listener.answered() == {1, 2, 3}, "all are answered")
        assert said(listener, commands.Basic.Return).reply_code == 312
        with rabbitmq.channel() as channel:
            _, properties, body = channel.basic_get("spool.q", auto_ack=True)
            assert body == b"request"
            channel.basic_publish("", properties.reply_to, b"answer")
        assert deliveries(listener, 1)[0].consumer_tag == "answers"
    with rabbitmq.channel() as channel:
        channel.exchange_declare("spool.other", "fanout")
        channel.queue_bind("spool.q", "spool.other")
    assert bodies(rabbitmq, "spool.q", 1) == [b"third"]
    spooled.empty()
    with rabbitmq.channel() as channel:
        channel.exchange_delete("spool.other")


# -- limits


def test_a_rate_is_kept_exactly_and_nobody_waits(rabbitmq: RabbitMQ, spooled: Spooled) -> None:
    """The rate is told from when each message may come at the earliest: none is earlier, on any machine, and the latest
    are no later than the first ones. A machine that is busy may make them later, and the answers, too; so these two are
    tried until each was seen once. What is slower than the rate, or waits for it, is so each time."""
    unseen = {"and no slower", "nobody waits for the rate"}
    ends = time.monotonic() + PATIENCE
    with rabbitmq.channel() as channel:
        channel.exchange_declare("spool.paced", "fanout")
        channel.queue_bind("spool.q", "spool.paced")
    while unseen and time.monotonic() < ends:
        acknowledged, late = _paced(rabbitmq, spooled, 150)
        assert min(late) >= 0, "no faster"
        if min(late[100:]) < min(late[BURST:]) + 0.05:
            unseen.discard("and no slower")
        if acknowledged < (len(late) - BURST) / 100:
            unseen.discard("nobody waits for the rate")
    with rabbitmq.channel() as channel:
        channel.exchange_delete("spool.paced")
    assert not unseen


def _paced(rabbitmq: RabbitMQ, spooled: Spooled, count: int) -> tuple[float, list[float]]:
    """Publish so many to ``spool.paced`` at once. Seconds until all are acknowledged, and how much later than at the
    earliest each of them has come."""
    with spooled.listener() as publisher, rabbitmq.channel() as channel:
        started = time.monotonic()
        for number in range(count):
            publisher.client.publish(1, "spool.paced", "", b"%d" % number)
        wait_for(lambda: len(publisher.answered()) == count, "all are acknowledged")
        acknowledged = time.monotonic()
        times: list[float] = []
        found: list[bytes] = []
        for _, _, body in channel.consume("spool.q", auto_ack=True, inactivity_timeout=PATIENCE):
            assert body is not None, f"one more than {len(found)}"
            times.append(time.monotonic())
            found.append(body)
            if len(found) == count:
                break
    assert found == [b"%d" % number for number in range(count)]
    return acknowledged - started, [at - started - (number + 1 - BURST) / 100 for number, at in enumerate(times)]


def test_a_queue_does_not_grow(rabbitmq: RabbitMQ, spooled: Spooled) -> None:
    count = 300
    with spooled.listener() as publisher:
        publisher.send(commands.Queue.Declare(queue="spool.deep", durable=True))
        said(publisher, commands.Queue.DeclareOk)
        wait_for(lambda: any(q["depth"] == 0 for q in spooled.view()["queues"]), "it is watched")
        for number in range(count):
            publisher.publish("spool.deep", b"%d" % number)
        wait_for(lambda: len(publisher.answered()) == count, "all are acknowledged")
        assert DEEP - 10 <= rabbitmq.depth("spool.deep") <= DEEP
        assert bodies(rabbitmq, "spool.deep", count) == [b"%d" % number for number in range(count)]
    rabbitmq.delete("spool.deep")


def test_an_alarm_hurts_nobody(rabbitmq: RabbitMQ, spooled: Spooled) -> None:
    with spooled.listener() as publisher:
        publisher.publish("spool.q", b"before")
        said(publisher, commands.Basic.Ack)
        rabbitmq.alarm(True)
        try:
            wait_for(lambda: spooled.view()["blocked"], "it knows")
            for number in range(100):
                publisher.publish("spool.q", b"%d" % number)
            wait_for(lambda: len(publisher.answered()) == 101, "all are acknowledged")
            assert not publisher.methods(commands.Connection.Blocked)
        finally:
            rabbitmq.alarm(False)
        assert bodies(rabbitmq, "spool.q", 101) == [b"before", *(b"%d" % number for number in range(100))]


# -- other settings


def test_acknowledged_by_the_broker_alone(rabbitmq: RabbitMQ, wire: Wire, tmp_path: Any) -> None:
    """A channel that comes after one that has gone gets none of its answers."""
    rabbitmq.declare("spool.broker", durable=True)
    with Spooled(tmp_path, wire.port, {"ack": "broker", "mandatory": True}) as spooled, spooled.listener() as listener:
        away(wire, spooled)
        for number in range(3):
            listener.client.publish(1, "", "spool.broker", b"%d" % number, mandatory=True)
        wait_for(lambda: spooled.spool()["messages"] == 3, "it has them")
        listener.send(commands.Channel.Close(200, "", 0, 0))
        said(listener, commands.Channel.CloseOk)
        listener.send(commands.Channel.Open(), commands.Confirm.Select())
        said(listener, commands.Confirm.SelectOk)
        for number in range(3, 5):
            listener.publish("spool.broker", b"%d" % number)
        wait_for(lambda: spooled.spool()["messages"] == 5, "it has them")
        assert not listener.answered()
        back(wire, spooled)
        wait_for(lambda: listener.answered() == {1, 2}, "the broker has them")
        spooled.empty()
        time.sleep(0.2)
        assert listener.answered() == {1, 2}
        assert listener.error is None
        assert [frame for frame in listener.frames if frame.kind == METHOD and frame.channel == 0] == []
    assert bodies(rabbitmq, "spool.broker", 5) == [b"%d" % number for number in range(5)]
    rabbitmq.delete("spool.broker")


# -- in the middle of something


def test_a_broker_is_lost_in_the_middle_of_messages(rabbitmq: RabbitMQ, wire: Wire, spooled: Spooled) -> None:
    """The client gets each of them whole, once more if need be, and no exception."""
    count = 30
    with rabbitmq.channel() as channel:
        for number in range(count):
            channel.basic_publish("", "spool.q", b"%d " % number + b"x" * (2 << 20))
    client = spooled.client(confirms=False)
    client.call(1, commands.Basic.Qos(prefetch_count=3), commands.Basic.QosOk)
    with Listener(client, ack=True) as consumer:
        consumer.send(commands.Basic.Consume(queue="spool.q", consumer_tag="mine"))
        for milliseconds in (5, 10, 20, 30, 40, 50):
            time.sleep(milliseconds / 1000)
            away(wire, spooled)
            back(wire, spooled)
        wait_for(lambda: len(set(_whole(consumer))) == count, "all have come")
        assert consumer.error is None
        assert not [frame for frame in consumer.frames if frame.kind == METHOD and frame.channel == 0]


def _whole(listener: Listener) -> list[int]:
    """The numbers at the beginning of the messages that have come, as far as they have come."""
    numbers: list[int] = []
    body = b""
    missing = 0
    for frame in list(listener.frames):
        if frame.kind == METHOD:
            assert not missing, "a method inside a message"
            body = b""
        elif frame.kind == HEADER:
            missing = int.from_bytes(frame.payload[4:12], "big")
        elif frame.kind == BODY:
            body = body or frame.payload
            missing -= len(frame.payload)
            if not missing:
                numbers.append(int(body.split(b" ", 1)[0]))
    return numbers


def test_a_missing_exchange_makes_no_duplicates(rabbitmq: RabbitMQ, wire: Wire, spooled: Spooled) -> None:
    """Nothing is sent twice, neither what waits for the exchange nor what is on its way beside it."""
    exchanges = [f"spool.x{number}" for number in range(5)]
    late = exchanges[2]
    count = 200
    rabbitmq.declare("spool.many", durable=True)
    with rabbitmq.channel() as channel:
        for exchange in exchanges:
            if exchange != late:
                channel.exchange_declare(exchange, "fanout")
                channel.queue_bind("spool.many", exchange)
    away(wire, spooled)
    with spooled.listener() as publisher:
        for number in range(count):
            for exchange in exchanges:
                publisher.client.publish(1, exchange, "key", b"%s %d" % (exchange.encode(), number))
        wait_for(lambda: len(publisher.answered()) == 5 * count, "all are on the disk")
    back(wire, spooled)
    wait_for(lambda: rabbitmq.depth("spool.many") >= 4 * count, "all but those that cannot go")
    time.sleep(1.5)  # the missing one is looked for again
    assert rabbitmq.depth("spool.many") == 4 * count
    with rabbitmq.channel() as channel:
        channel.exchange_declare(late, "fanout")
        channel.queue_bind("spool.many", late)
    spooled.empty()
    assert rabbitmq.depth("spool.many") == 5 * count
    found = bodies(rabbitmq, "spool.many", 5 * count)
    for exchange in exchanges:
        mine = [body for body in found if body.startswith(exchange.encode())]
        assert mine == [b"%s %d" % (exchange.encode(), number) for number in range(count)]
    assert not spooled.letters()
    rabbitmq.delete("spool.many")
    with rabbitmq.channel() as channel:
        for exchange in exchanges:
            channel.exchange_delete(exchange)
