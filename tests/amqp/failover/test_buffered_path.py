"""What becomes of publishes on a port with a spool."""

from __future__ import annotations

import pytest

from sidecar.amqp.replay.outcomes import MISSING
from sidecar.amqp.wire.constants import BASIC_PUBLISH
from sidecar.amqp.wire.tables import table_entry
from sidecar.core.amqp_settings import AmqpCredentials, AmqpHold, AmqpPublish
from sidecar.core.secret import Secret
from support.amqp import (
    CLOSE_OK,
    Peer,
    ack,
    channel_close,
    channel_close_ok,
    channel_open,
    channel_open_ok,
    close,
    confirm_select,
    confirm_select_ok,
    consume,
    consume_ok,
    deliver,
    nack,
    publish,
    returned,
    short,
    tx_commit,
    tx_commit_ok,
    tx_select,
    tx_select_ok,
)
from support.kept import REPLAY, SELECT, KeptStage, replayed

REPLY_TO = "amq.rabbitmq.reply-to"
MANDATORY, IMMEDIATE = 1, 2
#: A request with direct reply-to, an answer to one, and what the broker may give back.
UNSPOOLABLE = {
    "request": publish(1, "q", b"x", properties=b"\x02\x00" + short(REPLY_TO)),
    "answer": publish(1, f"{REPLY_TO}.g1h2AA.token", b"x"),
    "mandatory": publish(1, "q", b"x", bits=MANDATORY),
    "immediate": publish(1, "q", b"x", bits=IMMEDIATE),
}


def lost(stage: KeptStage, broker: Peer) -> None:
    """The broker goes, and stays away."""
    stage.away()
    broker.breaks()


def test_what_was_not_confirmed_goes_by_the_spool_and_later_ones_behind_it() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "q", b"a"), publish(1, "q", b"b"))
    broker.gets(publish(1, "q", b"a"), publish(1, "q", b"b"))
    stage.away()
    broker.breaks()
    client.gets(ack(1, 2, True))
    client.says(publish(1, "q", b"c"))
    client.gets(ack(1, 3))
    assert stage.disk.bodies() == [b"a", b"b", b"c"]
    stage.there()
    broker = stage.back()
    broker.gets(channel_open(1), confirm_select(1))
    broker.says(channel_open_ok(1), confirm_select_ok(1))
    client.says(publish(1, "q", b"d"))
    broker.gets_nothing()
    client.gets(ack(1, 4))
    replay = stage.replay()
    replay.gets(*[replayed(1, "q", body) for body in (b"a", b"b", b"c", b"d")])
    replay.says(ack(1, 4, True))
    client.says(publish(1, "q", b"e"))
    broker.gets(publish(1, "q", b"e"))
    broker.says(ack(1, 1))
    client.gets(ack(1, 5))
    stage.advance(1)
    assert not stage.disk.stored
    stage.over()


def test_what_a_channel_has_published_stays_in_order_whoever_notices_first_that_the_broker_is_gone() -> None:
    stage = KeptStage()
    one, first = stage.open(1)
    two, second = stage.open(1)
    one.says(publish(1, "q", b"a1"))
    two.says(publish(1, "q", b"b1"), publish(1, "other", b"c1"))
    stage.away()
    first.breaks()
    two.says(publish(1, "q", b"b2"), publish(1, "other", b"c2"))
    second.breaks()
    assert stage.disk.bodies() == [b"a1", b"b1", b"c1", b"c2", b"b2"]
    stage.over()


def test_what_goes_into_the_spool_waits_for_what_is_under_way() -> None:
    stage = KeptStage()
    one, first = stage.open(1)
    two, second = stage.open(1, confirms=True)
    stage.away()
    first.breaks()
    two.says(publish(1, "q", b"b1"))
    one.says(publish(1, "q", b"a1"))
    two.says(publish(1, "q", b"b2"))
    two.gets_nothing()
    second.says(ack(1, 1))
    two.gets(ack(1, 1))
    stage.advance(0.1)
    two.gets(ack(1, 2))
    assert stage.disk.bodies() == [b"a1", b"b2"]
    stage.over()


@pytest.mark.parametrize("behind", [1, 3])
def test_what_is_over_its_rate_waits_for_what_the_broker_may_still_be_reading(behind: int) -> None:
    """Over another connection it would come first to a broker that takes its time."""
    rate = AmqpPublish(exchange="ex", rate=1.0, burst=2, over="spool")
    stage = KeptStage(publish=(rate,))
    client, broker = stage.open(1, confirms=True)
    first, second = publish(1, "k", b"a", exchange="ex"), publish(1, "k", b"b", exchange="ex")
    later = [publish(1, "k", b"%d" % number, exchange="ex") for number in range(behind)]
    client.says(first, second, *later)
    broker.gets(first, second)
    stage.advance(0.5)
    broker.says(ack(1, 1))
    client.gets(ack(1, 1))
    stage.advance(0.1)
    assert not stage.disk.stored
    broker.says(ack(1, 2))
    client.gets(ack(1, 2))
    stage.advance(0.1)
    client.gets(*[ack(1, 3 + number) for number in range(behind)])
    assert stage.disk.bodies() == [b"%d" % number for number in range(behind)]
    stage.over()


def test_what_a_rule_sends_to_the_spool_goes_there_though_there_are_tokens_before_the_broker_has_confirmed() -> None:
    """Else a broker that confirms more slowly than tokens come would let clients wait for the rate."""
    stage = KeptStage(publish=(AmqpPublish(exchange="ex", rate=1.0, burst=1, over="spool"),))
    client, broker = stage.open(1, confirms=True)
    client.says(*[publish(1, "k", b"%d" % number, exchange="ex") for number in range(5)])
    broker.gets(publish(1, "k", b"0", exchange="ex"))
    stage.advance(3)
    broker.gets_nothing()
    broker.says(ack(1, 1))
    client.gets(ack(1, 1))
    stage.advance(0.1)
    client.gets(*[ack(1, number) for number in range(2, 6)])
    assert stage.disk.bodies() == [b"1", b"2", b"3", b"4"]
    stage.over()


# -- acknowledgements --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies", [False, True])
def test_with_ack_broker_a_client_waits_until_the_broker_has_it_or_nobody_will(dies: bool) -> None:
    stage = KeptStage(spool={"ack": "broker"})
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "q", b"a"))
    lost(stage, broker)
    client.says(publish(1, "q", b"b"))
    stage.advance(60)
    assert stage.disk.bodies() == [b"a", b"b"]
    client.gets_nothing()
    stage.there()
    broker = stage.back(channel_open_ok(1), confirm_select_ok(1))
    replay = stage.replay()
    replay.gets(replayed(1, "q", b"a"), replayed(1, "q", b"b"))
    client.gets_nothing()
    replay.says(ack(1, 1))
    client.gets(ack(1, 1))
    if dies:
        replay.says(channel_close(1, 403, "ACCESS_REFUSED - not here", 60 << 16 | 40))
        client.gets(nack(1, 2))
        stage.advance(1)
        assert [(message.body, code) for message, _, code in stage.disk.letters] == [(b"b", 403)]
    else:
        replay.says(ack(1, 2))
        client.gets(ack(1, 2))
    assert (stage.stats.acks_by_broker, stage.stats.acks_by_spool) == (2 - dies, 0)
    stage.over()


def test_with_ack_spool_the_disk_is_enough() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, confirms=True)
    lost(stage, broker)
    stage.disk.slow = True
    client.says(publish(1, "q", b"a"))
    client.gets_nothing()
    stage.disk.work()
    client.gets(ack(1, 1))
    assert (stage.stats.acks_by_broker, stage.stats.acks_by_spool) == (0, 1)
    stage.over()


# -- what is not spooled -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", UNSPOOLABLE)
@pytest.mark.parametrize("confirms", [True, False])
def test_what_is_not_spooled_waits_for_the_broker(what: str, confirms: bool) -> None:
    message = UNSPOOLABLE[what]
    stage = KeptStage(spool={"mandatory": what in ("request", "answer")})
    client, broker = stage.open(1, confirms=confirms)
    client.says(message)
    broker.gets(*(() if confirms else (SELECT,)), message)
    lost(stage, broker)
    client.says(message, publish(1, "other", b"spooled"))
    client.gets(*((ack(1, 3),) if confirms else ()))
    assert stage.disk.bodies() == [b"spooled"]
    stage.there()
    broker = stage.back(channel_open_ok(1), confirm_select_ok(1))
    stage.advance(0.1)
    broker.gets(message, message)
    client.gets_nothing()
    broker.says(ack(1, 1), ack(1, 2))
    client.gets(*((ack(1, 1), ack(1, 2)) if confirms else ()))
    stage.over()


def test_a_message_that_only_mentions_direct_reply_to_is_no_request() -> None:
    entries = table_entry("from", REPLY_TO)
    stage = KeptStage()
    client, broker = stage.open(1, confirms=True)
    lost(stage, broker)
    headers = b"\x20\x00" + len(entries).to_bytes(4, "big") + entries
    client.says(publish(1, "q", b"spooled", properties=headers))
    client.gets(ack(1, 1))
    assert stage.disk.bodies() == [b"spooled"]
    stage.over()


def test_what_is_behind_such_a_message_to_the_same_queue_waits_with_it() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    lost(stage, broker)
    client.says(UNSPOOLABLE["mandatory"], publish(1, "q", b"behind"))
    assert not stage.disk.stored
    stage.there()
    broker = stage.back(channel_open_ok(1), confirm_select_ok(1))
    stage.advance(0.1)
    broker.gets(UNSPOOLABLE["mandatory"], publish(1, "q", b"behind"))
    stage.over()


def test_on_a_channel_that_is_opened_meanwhile_such_a_message_waits_too() -> None:
    stage = KeptStage()
    client, broker = stage.open()
    lost(stage, broker)
    client.says(channel_open(3))
    client.gets(channel_open_ok(3))
    stage.disk.broken = "no space"
    client.says(publish(3, "q", b"a"))
    assert stage.listener.scheduler.messages == 1
    client.says(publish(3, "q", b"b", bits=MANDATORY))
    stage.disk.broken = ""
    stage.advance(3)
    assert stage.disk.bodies() == [b"a"]
    stage.there()
    broker = stage.back(channel_open_ok(3), confirm_select_ok(3))
    stage.advance(1)
    broker.gets(publish(3, "q", b"b", bits=MANDATORY))
    stage.complains("cannot store")
    stage.over()


def test_what_was_held_behind_such_a_message_stays_behind_it() -> None:
    rate = AmqpPublish(exchange="slow", rate=0.1, burst=1)
    stage = KeptStage(publish=(rate,))
    client, broker = stage.open(1)
    passes = publish(1, "k", b"a", exchange="slow")
    first = publish(1, "k", b"b", exchange="slow", bits=MANDATORY)
    second = publish(1, "k", b"c", exchange="slow")
    client.says(passes, first, second)
    broker.gets(SELECT, passes)
    broker.says(ack(1, 1))
    lost(stage, broker)
    assert not stage.disk.stored
    stage.there()
    broker = stage.back(channel_open_ok(1), confirm_select_ok(1))
    stage.advance(12)
    broker.gets(first)
    broker.says(ack(1, 1))
    stage.advance(12)
    broker.gets(second)
    broker.says(ack(1, 2))
    stage.over()


@pytest.mark.parametrize("what", UNSPOOLABLE)
def test_what_is_not_spooled_is_refused_when_there_is_no_broker_for_too_long(what: str) -> None:
    stage = KeptStage(hold=AmqpHold(timeout=20.0))
    client, broker = stage.open(1, confirms=True)
    client.says(UNSPOOLABLE[what])
    lost(stage, broker)
    client.says(UNSPOOLABLE[what])
    stage.advance(19)
    client.gets_nothing()
    stage.advance(2)
    client.gets(nack(1, 1), nack(1, 2))
    assert not stage.disk.stored
    stage.over()


@pytest.mark.parametrize("what", ["request", "mandatory", "immediate"])
def test_what_is_not_spooled_passes_what_is(what: str) -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    lost(stage, broker)
    client.says(publish(1, "q", b"first"))
    stage.there()
    broker = stage.back(channel_open_ok(1), confirm_select_ok(1))
    client.says(publish(1, "q", b"behind"), UNSPOOLABLE[what])
    broker.gets(UNSPOOLABLE[what])
    assert stage.disk.bodies() == [b"first", b"behind"]
    stage.over()


def test_a_request_that_waited_for_the_broker_gets_its_answer() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    client.says(consume(1, REPLY_TO, "c", no_ack=True))
    broker.says(consume_ok(1, "c"))
    client.heard()
    lost(stage, broker)
    client.says(UNSPOOLABLE["request"])
    stage.there()
    broker = stage.back()
    broker.gets(channel_open(1), confirm_select(1), consume(1, REPLY_TO, "c", no_ack=True))
    broker.says(channel_open_ok(1), confirm_select_ok(1), consume_ok(1, "c"))
    stage.advance(0.1)
    broker.gets(UNSPOOLABLE["request"])
    broker.says(ack(1, 1), deliver(1, "c", 1, b"answer"))
    client.gets(deliver(1, "c", 1, b"answer"))
    stage.over()


@pytest.mark.parametrize("ack_by", ["spool", "broker"])
def test_mandatory_messages_are_spooled_where_that_is_wanted(ack_by: str) -> None:
    stage = KeptStage(spool={"mandatory": True, "ack": ack_by})
    client, broker = stage.open(1, confirms=True)
    lost(stage, broker)
    unroutable, routable = publish(1, "q", b"a", bits=MANDATORY), publish(1, "q", b"b", bits=MANDATORY)
    client.says(unroutable, routable)
    client.gets(*((ack(1, 1), ack(1, 2)) if ack_by == "spool" else ()))
    assert stage.disk.bodies() == [b"a", b"b"]
    stage.there()
    stage.back(channel_open_ok(1), confirm_select_ok(1))
    replay = stage.replay()
    replay.gets(unroutable, routable)
    replay.says(returned(1, "q", b"a"), ack(1, 1), ack(1, 2))
    client.gets(*((ack(1, 2),) if ack_by == "broker" else ()))
    stage.advance(1.2)
    replay.gets(unroutable)  # its queue may still be declared by somebody who comes back
    client.gets_nothing()
    stage.advance(MISSING)
    replay.says(returned(1, "q", b"a"), ack(1, 3))
    client.gets(*((nack(1, 1),) if ack_by == "broker" else ()))
    stage.advance(1)
    assert not stage.disk.stored
    assert [(message.body, why, code) for message, why, code in stage.disk.letters] == [(b"a", "unroutable", 312)]
    stage.over()


def test_an_immediate_message_in_the_spool_dies_when_the_broker_refuses_it_and_no_other_does() -> None:
    """RabbitMQ knows none, and closes the connection."""
    stage = KeptStage(spool={"mandatory": True})
    client, broker = stage.open(1)
    lost(stage, broker)
    client.says(UNSPOOLABLE["immediate"], publish(1, "q", b"other"))
    stage.there()
    stage.back(channel_open_ok(1), confirm_select_ok(1))
    replay = stage.replay()
    replay.gets(replayed(1, "q", b"x", IMMEDIATE), replayed(1, "q", b"other"))
    for _ in range(2):
        replay.says(close(540, "NOT_IMPLEMENTED - immediate=true", 60 << 16 | 40))
        replay.gets(CLOSE_OK)
        replay.breaks()
        replay = stage.replay()
        wary = replay.frames()
    assert b"".join(wary) == replayed(1, "q", b"other")
    replay.says(ack(1, 1))
    stage.advance(1)
    assert not stage.disk.stored
    assert [(message.body, why, code) for message, why, code in stage.disk.letters] == [(b"x", "refused", 540)]
    stage.over()


# -- transactions ------------------------------------------------------------------------------------------------------


def test_a_transaction_is_left_alone_and_ends_with_its_broker() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, 2)
    lost(stage, broker)
    client.says(publish(2, "q", b"spooled"))
    stage.there()
    broker = stage.back()
    broker.says(channel_open_ok(1), channel_open_ok(2), confirm_select_ok(2))
    broker.heard()
    client.says(tx_select(1))
    broker.gets(tx_select(1))
    broker.says(tx_select_ok(1))
    client.gets(tx_select_ok(1))
    client.says(publish(1, "q", b"a"), publish(1, "q", b"b"), tx_commit(1))
    broker.gets(publish(1, "q", b"a"), publish(1, "q", b"b"), tx_commit(1))
    broker.says(tx_commit_ok(1))
    client.gets(tx_commit_ok(1))
    client.says(publish(1, "q", b"c"))
    broker.gets(publish(1, "q", b"c"))
    lost(stage, broker)
    client.gets_close(320)
    assert stage.disk.bodies() == [b"spooled"]
    client.says(CLOSE_OK)
    stage.over()


def test_a_channel_that_has_published_has_no_transactions_says_the_broker() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    client.says(publish(1, "q", b"a"), tx_select(1))
    broker.gets(SELECT, publish(1, "q", b"a"), tx_select(1))
    refusal = channel_close(1, 406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode", 90 << 16 | 10)
    broker.says(ack(1, 1), refusal)
    client.gets(refusal)
    client.says(channel_close_ok(1), channel_open(1))
    broker.gets(channel_close_ok(1), channel_open(1))
    broker.says(channel_open_ok(1))
    client.gets(channel_open_ok(1))
    stage.over()


def test_a_transaction_is_begun_when_there_is_a_broker() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, 2)
    lost(stage, broker)
    client.says(tx_commit(2))
    client.gets_close(406, "not transactional")
    client.says(channel_close_ok(2), tx_select(1), publish(1, "q", b"a"), tx_commit(1))
    client.gets_nothing()
    stage.there()
    broker = stage.back()
    broker.gets(channel_open(1))
    broker.says(channel_open_ok(1))
    broker.gets(tx_select(1), publish(1, "q", b"a"), tx_commit(1))
    broker.says(tx_select_ok(1), tx_commit_ok(1))
    client.gets(tx_select_ok(1), tx_commit_ok(1))
    assert not stage.disk.stored
    stage.over()


def test_a_nack_that_nobody_has_asked_for_drops_the_message_as_the_broker_meant() -> None:
    """A queue with ``x-overflow: reject-publish`` nacks what it has no room for."""
    stage = KeptStage()
    client, broker = stage.open(1)
    client.says(publish(1, "q", b"a"), publish(1, "q", b"b"))
    broker.heard()
    broker.says(nack(1, 1), ack(1, 2))
    client.gets_nothing()
    assert not stage.disk.bodies()
    assert stage.stats.exchanges["/", ""].nacked == 1
    client.says(publish(1, "q", b"c"))
    broker.gets(publish(1, "q", b"c"))
    broker.says(ack(1, 3))
    stage.over()


# -- whose they are ----------------------------------------------------------------------------------------------------


def signed(user: str, body: bytes = b"x") -> bytes:
    """A publish with that ``user-id``."""
    return publish(1, "q", body, properties=b"\x00\x10" + short(user))


def test_nobody_publishes_under_anothers_name_while_there_is_no_broker() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, confirms=True)
    lost(stage, broker)
    client.says(signed("guest", b"mine"))
    client.gets(ack(1, 1))
    client.says(signed("alice", b"forged"), publish(1, "q", b"behind it"))
    text = "PRECONDITION_FAILED - user_id property set to 'alice' but authenticated user was 'guest'"
    client.gets(channel_close(1, 406, text, BASIC_PUBLISH))
    assert stage.disk.bodies() == [b"mine"]
    client.says(channel_close_ok(1), channel_open(1))
    client.gets(channel_open_ok(1))
    stage.over()


def test_whose_name_a_message_may_bear_is_for_the_broker_to_judge() -> None:
    """Others' messages are in the spool; and it is lost before it has said what it thinks of this one."""
    stage = KeptStage()
    client, broker = stage.open(1, confirms=True)
    client.says(signed("alice", b"forged"))
    broker.gets(signed("alice", b"forged"))
    lost(stage, broker)
    assert not stage.disk.bodies()
    client.gets_nothing()
    client.says(publish(1, "q", b"next"))
    client.gets_nothing()  # it keeps its place behind the other
    stage.there()
    broker = stage.back()
    broker.gets(channel_open(1), confirm_select(1))
    broker.says(channel_open_ok(1), confirm_select_ok(1))
    stage.advance(0.1)
    broker.gets(signed("alice", b"forged"), publish(1, "q", b"next"))
    assert not stage.disk.bodies()
    stage.over()


def test_what_is_spooled_goes_as_the_user_who_has_published_it() -> None:
    stage = KeptStage(credentials=AmqpCredentials(username="sidecar", password=Secret("other")))
    client, broker = stage.open(1, confirms=True)
    lost(stage, broker)
    client.says(publish(1, "q", b"a"))
    client.gets(ack(1, 1))
    (message,) = stage.disk.stored.values()
    assert message.user == "guest"
    stage.there()
    stage.back(channel_open_ok(1), confirm_select_ok(1))
    _, login = stage.found()
    assert REPLAY in login
    assert b"\0guest\0secret" in login
    stage.over()
