from __future__ import annotations

from sidecar.amqp.replay.publisher_pool import IDLE
from sidecar.core.amqp_settings import Amqp, AmqpPublish
from support import amqp
from support.replaying import Setting, numbered


def test_each_vhost_has_a_connection() -> None:
    one = Setting().start()
    one.put(one.message("a"), one.message("b", vhost="/agents"))
    one.loop.settle()
    assert sorted(connection.vhost for connection in one.broker.open) == ["/", "/agents"]
    assert one.empty()


def test_a_connection_with_nothing_to_do_ends() -> None:
    one = Setting().start()
    one.put(one.message("a"))
    one.loop.settle()
    one.advance(IDLE + 5)
    assert not one.broker.open
    one.put(one.message("b"))
    one.loop.settle()
    assert one.empty()
    assert one.broker.dialled == 2
    assert not one.log.lines


# -- the broker is away ------------------------------------------------------------------------------------------------


def test_the_broker_comes_back() -> None:
    one = Setting()
    one.broker.away = True
    one.spool.store(*[one.message(name) for name in numbered(20)])
    one.start()
    one.advance(60)
    assert 6 <= one.broker.dialled <= 60
    assert one.dispatcher.problems
    one.broker.away = False
    one.dispatcher.broker_is_back()
    one.loop.settle()
    assert one.bodies() == numbered(20)
    assert one.empty()
    assert not one.dispatcher.problems
    assert [text for _, text in one.log.lines] == [
        "what is in the spool waits: cannot connect: it is away",
        "works again",
    ]


def test_what_was_not_confirmed_is_sent_again_in_its_place() -> None:
    one = Setting(window=8)
    one.broker.answers = False
    one.spool.store(*[one.message(name) for name in numbered(20)])
    one.start()
    one.broker.open[0].answer(2)
    one.loop.settle()
    one.broker.goes_down()
    one.broker.away = False
    one.broker.answers = True
    one.advance(5)
    assert one.bodies() == [*numbered(9), "0", *numbered(20)[2:]]
    assert one.empty()


def test_a_frozen_broker() -> None:
    one = Setting()
    one.broker.heartbeat = 10
    one.start()
    one.put(one.message("a"))
    one.loop.settle()
    one.broker.open[0].frozen = True
    one.put(one.message("b"))
    one.advance(40)
    assert one.bodies() == ["a", "b"]
    assert one.empty()


def test_without_an_account_everything_waits() -> None:
    one = Setting()
    one.account = False
    one.spool.store(one.message("a"))
    one.start()
    one.advance(10)
    assert one.broker.dialled == 0
    assert one.dispatcher.problems == [("/", "", "there is no account to publish with")]
    one.account = True
    one.dispatcher.logins_changed()
    one.loop.settle()
    assert one.empty()


def test_an_account_that_is_refused_is_tried_seldom() -> None:
    one = Setting()
    one.broker.refuses["sidecar"] = (403, "ACCESS_REFUSED - Login was refused")
    one.spool.store(one.message("a"))
    one.start()
    one.advance(95)
    assert 3 <= one.broker.dialled <= 4
    one.broker.refuses.clear()
    one.advance(35)
    assert one.empty()


def test_a_user_who_may_have_one_channel() -> None:
    one = Setting()
    one.broker.forbids = 20, 10
    one.spool.store(*[one.message(name) for name in numbered(10)])
    one.start()
    one.advance(5)
    assert one.bodies() == numbered(10)
    assert one.broker.dialled == 2
    assert one.empty()


# -- its alarm ---------------------------------------------------------------------------------------------------------


def test_an_alarm_that_it_hears_of_itself() -> None:
    one = Setting()
    alarms: list[bool] = []
    one.dispatcher.on_alarm = alarms.append
    one.start()
    one.put(one.message("a"))
    one.loop.settle()
    one.broker.open[0].says(amqp.blocked("low on memory"))
    one.put(one.message("b"), one.message("c"))
    one.loop.settle()
    one.advance(5)
    assert one.bodies() == ["a"]
    one.broker.open[0].says(amqp.UNBLOCKED)
    one.loop.settle()
    assert one.bodies() == ["a", "b", "c"]
    assert alarms == [True, False]


def test_a_lost_connection_ends_an_alarm() -> None:
    one = Setting()
    alarms: list[bool] = []
    one.dispatcher.on_alarm = alarms.append
    one.start()
    one.put(one.message("a"))
    one.loop.settle()
    one.broker.open[0].says(amqp.blocked("low on memory"))
    one.broker.goes_down()
    assert alarms == [True, False]


# -- users -------------------------------------------------------------------------------------------------------------


def test_a_message_with_a_user_goes_as_that_user() -> None:
    one = Setting()
    one.users = {"alice"}
    one.start()
    one.put(one.message("a", user="alice"), one.message("b"))
    one.loop.settle()
    assert {message.body: message.connection.user for message in one.broker.taken} == {b"a": "alice", b"b": "sidecar"}
    assert one.empty()


def test_one_whose_user_is_not_known_waits_and_the_others_go() -> None:
    one = Setting()
    one.spool.store(one.message("a", user="bob"), *[one.message(name) for name in numbered(50)])
    one.spool.store(one.message("b", user="bob"))
    one.start()
    assert one.bodies() == numbered(50)
    assert one.dispatcher.stats.parked == 2
    one.put(one.message("more"))
    one.advance(10)
    assert one.bodies()[-1] == "more"
    assert one.dispatcher.stats.parked == 2
    assert one.spool.messages == 2
    assert len(one.spool.fetches) < 20
    one.users = {"bob"}
    one.dispatcher.logins_changed()
    one.loop.settle()
    assert one.bodies()[-2:] == ["a", "b"]
    assert one.dispatcher.stats.parked == 0
    assert one.empty()
    assert len(one.log.lines) == 1


def test_a_user_whom_the_broker_refuses_meanwhile() -> None:
    one = Setting()
    one.users = {"bob"}
    one.broker.refuses["bob"] = (403, "ACCESS_REFUSED - Login was refused")
    one.spool.store(one.message("a", user="bob"), one.message("b"))
    one.start()
    one.advance(5)
    assert one.bodies() == ["b"]
    assert one.dispatcher.stats.parked == 1
    one.broker.refuses.clear()
    one.advance(40)
    assert one.bodies() == ["b", "a"]
    assert one.empty()


def test_the_account_itself_needs_no_second_connection() -> None:
    one = Setting()
    one.users = {"sidecar"}
    one.password = "secret"
    one.spool.store(
        *[one.message(name, user=user) for name, user in zip(numbered(6), ["sidecar", ""] * 3, strict=True)]
    )
    one.start()
    assert one.bodies() == numbered(6)
    assert one.broker.dialled == 1
    assert one.empty()


def test_connections_do_not_overtake_each_other() -> None:
    one = Setting()
    one.users = {"alice", "bob"}
    one.broker.answers = False
    users = ["alice", "", "", "bob", "alice", "alice", "", "bob"]
    one.spool.store(*[one.message(name, user=user) for name, user in zip(numbered(8), users, strict=True)])
    one.spool.store(*[one.message(name, "orders") for name in numbered(20, "o")])
    one.start()
    assert [body for body in one.bodies() if body[0] != "o"] == ["0"]
    assert len(one.bodies()) == 21
    for count in (1, 3, 4, 6, 7, 8):
        assert [body for body in one.bodies() if body[0] != "o"] == numbered(count)
        one.broker.says_all()
    assert one.empty()


def test_nor_does_a_message_that_waits_at_a_gate() -> None:
    one = Setting(Amqp(publish=(AmqpPublish(exchange="jobs", rate=10.0, burst=1),)))
    one.users = {"alice"}
    users = ["", "alice"] * 20
    one.spool.store(*[one.message(name, user=user) for name, user in zip(numbered(40), users, strict=True)])
    one.start()
    one.advance(5)
    assert one.bodies() == numbered(40)
    assert one.empty()
