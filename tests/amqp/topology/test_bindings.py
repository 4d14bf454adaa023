from __future__ import annotations

import logging
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.topology.binding import Binding, digest
from sidecar.amqp.topology.bindings import MAX_EXCHANGES, MAX_QUEUES, MAX_VHOSTS, Bindings
from sidecar.amqp.topology.topic_match import compile_pattern
from sidecar.amqp.topology.vhost import MAX_BINDINGS, MAX_FOLLOWED, MAX_WORDS
from support.examples import examples


def learnt() -> Bindings:
    topology = Bindings()
    for kind in ("direct", "fanout", "topic", "headers"):
        topology.exchange_declared("/", kind, kind)
    return topology


def test_the_default_exchange_leads_to_the_queue_of_that_name() -> None:
    topology = Bindings()
    assert topology.queues("/", "", "tasks") == {"tasks"}
    topology.bound("/", "", "other", "tasks")
    assert topology.queues("/", "", "tasks") == {"tasks"}
    topology.watch([("/", "tasks")])
    assert topology.watched_queues("/", "", "tasks") == {"tasks"}
    assert topology.watched_queues("/", "", "other") == set()
    assert topology.watched_queues("/other", "", "tasks") == set()


def test_types() -> None:
    topology = learnt()
    for exchange in ("direct", "fanout", "topic", "headers", "never declared"):
        topology.bound("/", exchange, "exact", "a.b")
        topology.bound("/", exchange, "pattern", "a.*")
        topology.bound("/", exchange, "keyless", "")
    assert topology.queues("/", "direct", "a.b") == {"exact"}
    assert topology.queues("/", "direct", "a.*") == {"pattern"}
    assert topology.queues("/", "fanout", "whatever") == {"exact", "pattern", "keyless"}
    assert topology.queues("/", "headers", "whatever") == {"exact", "pattern", "keyless"}
    assert topology.queues("/", "topic", "a.b") == {"exact", "pattern"}
    assert topology.queues("/", "topic", "a.c") == {"pattern"}
    assert topology.queues("/", "topic", "") == {"keyless"}
    assert topology.queues("/", "never declared", "a.b") == {"exact", "pattern", "keyless"}
    assert topology.queues("/", "never declared", "b") == {"keyless"}
    assert topology.queues("/", "never heard of", "a.b") == set()
    assert topology.queues("/other", "topic", "a.b") == set()


def test_a_type_that_is_learnt_after_the_bindings() -> None:
    topology = Bindings()
    topology.bound("/", "x", "q", "a.*")
    assert topology.queues("/", "x", "a.b") == {"q"}
    topology.exchange_declared("/", "x", "direct")
    assert topology.queues("/", "x", "a.b") == set()
    topology.exchange_deleted("/", "x")
    topology.exchange_declared("/", "x", "x-consistent-hash")
    topology.bound("/", "x", "q", "1")
    topology.bound("/", "x", "p", "2")
    assert topology.queues("/", "x", "whatever") == {"q", "p"}


def test_two_types_for_one_exchange() -> None:
    topology = Bindings()
    topology.exchange_declared("/", "x", "topic")
    topology.bound("/", "x", "q", "a.*")
    version = topology.version
    topology.exchange_declared("/", "x", "direct")
    assert topology.version == version
    assert topology.queues("/", "x", "a.b") == {"q"}
    topology.exchange_declared("/", "x", "fanout")
    assert topology.queues("/", "x", "b") == {"q"}
    topology.exchange_declared("/", "x", "topic")
    assert topology.queues("/", "x", "b") == {"q"}
    topology.replace("/", {"x": "topic"}, [Binding("x", "q", "a.*")])
    assert topology.queues("/", "x", "b") == set()
    topology.replace("/", {"x": "direct"}, [Binding("x", "q", "a.*")])
    assert topology.queues("/", "x", "a.b") == set()


def test_exchanges_that_every_vhost_has() -> None:
    topology = Bindings()
    topology.exchange_declared("/", "amq.topic", "fanout")
    for exchange in ("amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match"):
        topology.bound("/", exchange, "q", "a.*")
    assert topology.queues("/", "amq.direct", "a.b") == set()
    assert topology.queues("/", "amq.topic", "a.b") == {"q"}
    assert topology.queues("/", "amq.topic", "b") == set()
    assert topology.queues("/", "amq.fanout", "b") == topology.queues("/", "amq.match", "b") == {"q"}
    assert topology.queues("/", "amq.headers", "b") == {"q"}


def test_unbinding() -> None:
    topology = learnt()
    topology.bound("/", "direct", "q", "a")
    topology.bound("/", "direct", "q", "a", {})
    topology.bound("/", "direct", "q", "b")
    topology.unbound("/", "direct", "q", "c")
    topology.unbound("/other", "direct", "q", "a")
    topology.unbound("/", "direct", "q", "a")
    assert topology.queues("/", "direct", "a") == set()
    assert topology.queues("/", "direct", "b") == {"q"}
    topology.unbound("/", "direct", "q", "a")


def test_bindings_differ_by_arguments() -> None:
    topology = learnt()
    topology.bound("/", "headers", "q", "", {"x-match": "all", "kind": 1})
    topology.bound("/", "headers", "q", "", {"kind": 2, "x-match": "all"})
    topology.unbound("/", "headers", "q", "", {"kind": 1, "x-match": "all"})
    assert topology.queues("/", "headers", "k") == {"q"}
    topology.unbound("/", "headers", "q", "", {"kind": 1, "x-match": "all"})
    topology.unbound("/", "headers", "q", "")
    assert topology.queues("/", "headers", "k") == {"q"}
    topology.unbound("/", "headers", "q", "", {"kind": 2, "x-match": "all"})
    assert topology.queues("/", "headers", "k") == set()


def test_arguments_are_kept_small() -> None:
    large: Mapping[str, object] = {"x": b"1" * 100_000, "\udcff": ["\udc80", {"a": None}]}
    assert len(digest(large)) == 16
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})


def test_exchanges_bound_to_exchanges() -> None:
    topology = learnt()
    topology.exchange_bound("/", "topic", "direct", "a.#")
    topology.exchange_bound("/", "direct", "fanout", "a.b")
    topology.bound("/", "fanout", "q", "")
    topology.bound("/", "direct", "exact", "a.c")
    assert topology.queues("/", "topic", "a.b") == {"q"}
    assert topology.queues("/", "topic", "a.c") == {"exact"}
    assert topology.queues("/", "topic", "b") == set()
    # A queue and an exchange may share a name.
    topology.bound("/", "topic", "fanout", "b")
    assert topology.queues("/", "topic", "b") == {"fanout"}
    topology.exchange_unbound("/", "direct", "fanout", "a.b")
    assert topology.queues("/", "topic", "a.b") == set()


def test_rings_of_exchanges_end() -> None:
    topology = learnt()
    topology.watch([("/", "q")])
    for source, destination in (("topic", "fanout"), ("fanout", "topic"), ("fanout", "fanout"), ("fanout", "direct")):
        topology.exchange_bound("/", source, destination, "#")
    topology.bound("/", "direct", "q", "a")
    topology.bound("/", "direct", "p", "a")
    assert topology.queues("/", "topic", "a") == {"q", "p"}
    assert topology.watched_queues("/", "topic", "a") == {"q"}


def test_a_long_way_is_not_followed_to_its_end() -> None:
    topology = Bindings()
    for number in range(MAX_FOLLOWED + 20):
        topology.exchange_bound("/", f"x{number}", f"x{number + 1}", "#")
        topology.bound("/", f"x{number}", f"q{number}", "#")
    assert topology.queues("/", "x0", "k") == {f"q{number}" for number in range(MAX_FOLLOWED)}


def test_deleting_a_queue_or_an_exchange() -> None:
    topology = learnt()
    topology.watch([("/", "watched")])
    for queue in ("q", "watched"):
        topology.bound("/", "fanout", queue, "")
        topology.bound("/", "direct", queue, "a")
        topology.bound("/", "direct", queue, "b")
    topology.exchange_bound("/", "topic", "direct", "#")
    topology.queue_deleted("/", "q")
    topology.queue_deleted("/", "direct")
    topology.queue_deleted("/other", "q")
    assert topology.queues("/", "fanout", "") == topology.queues("/", "topic", "a") == {"watched"}
    topology.exchange_deleted("/", "direct")
    topology.exchange_deleted("/", "never heard of")
    topology.exchange_deleted("/other", "direct")
    assert topology.queues("/", "direct", "a") == topology.queues("/", "topic", "a") == set()
    topology.exchange_declared("/", "direct", "direct")
    assert topology.queues("/", "direct", "a") == set()
    topology.queue_deleted("/", "watched")
    assert topology.queues("/", "fanout", "") == set()


def test_version_grows_with_what_is_new() -> None:
    topology = Bindings()
    seen = [topology.version]

    def is_news() -> bool:
        seen.append(topology.version)
        return seen[-1] > seen[-2]

    topology.exchange_declared("/", "x", "direct")
    assert is_news()
    topology.exchange_declared("/", "x", "direct")
    assert not is_news()
    topology.bound("/", "x", "q", "k")
    assert is_news()
    topology.bound("/", "x", "q", "k")
    assert not is_news()
    topology.unbound("/", "x", "q", "other")
    topology.queue_deleted("/", "p")
    topology.exchange_deleted("/", "y")
    assert not is_news()
    topology.replace("/", {"x": "direct"}, [Binding("x", "q", "k"), Binding("", "q", "q")])
    assert not is_news()
    topology.exchange_declared("/", "x", "topic")
    assert is_news()
    topology.exchange_declared("/", "x", "x-unheard-of")
    assert is_news()
    topology.queue_deleted("/", "q")
    assert is_news()


def test_only_what_concerns_watched_queues_is_told() -> None:
    topology = Bindings()
    told: list[int] = []
    topology.on_change = lambda: told.append(topology.version)

    def is_told() -> bool:
        found = bool(told)
        told.clear()
        return found

    topology.watch([("/", "q")])
    assert is_told()
    topology.exchange_declared("/", "x", "direct")
    topology.bound("/", "x", "p", "#")
    topology.bound("/other", "x", "q", "#")
    topology.queue_deleted("/", "p")
    assert not is_told()
    topology.bound("/", "x", "q", "#")
    assert is_told()
    topology.exchange_declared("/", "x", "topic")
    assert is_told()
    topology.exchange_bound("/", "y", "x", "#")
    assert is_told()
    topology.replace("/", {"x": "topic"}, [Binding("x", "q", "#"), Binding("y", "x", "#", None, True)])
    topology.replace("/", {"x": "topic"}, [Binding("x", "q", "#"), Binding("y", "x", "#", None, True)])
    assert not is_told()
    topology.replace("/", {"x": "topic"}, [Binding("y", "x", "#", None, True)])
    assert is_told()
    topology.exchange_deleted("/", "x")
    assert is_told()


def test_other_queues_are_watched() -> None:
    topology = learnt()
    topology.bound("/", "fanout", "q", "")
    topology.bound("/", "fanout", "p", "")
    assert topology.watched_queues("/", "fanout", "") == set()
    topology.watch([("/", "q"), ("/other", "p")])
    assert topology.watched_queues("/", "fanout", "") == {"q"}
    topology.watch([("/", "p")])
    assert topology.watched_queues("/", "fanout", "") == {"p"}
    assert topology.queues("/", "fanout", "") == {"p", "q"}
    topology.watch([])
    assert topology.watched_queues("/", "fanout", "") == set()
    assert topology.queues("/", "fanout", "") == {"p", "q"}


def test_the_broker_says_what_there_is() -> None:
    topology = learnt()
    topology.watch([("/", "watched")])
    topology.bound("/", "fanout", "gone", "")
    topology.bound("/", "fanout", "stays", "")
    topology.bound("/", "direct", "watched", "gone")
    topology.bound("/other", "direct", "watched", "elsewhere")
    topology.replace(
        "/",
        {"": "direct", "fanout": "fanout", "direct": "topic"},
        [
            Binding("", "stays", "stays"),
            Binding("fanout", "stays", ""),
            Binding("direct", "watched", "a.#"),
            Binding("fanout", "direct", "", None, True),
        ],
    )
    assert topology.queues("/", "fanout", "a.b") == {"stays", "watched"}
    assert topology.queues("/", "direct", "gone") == set()
    assert topology.queues("/", "", "stays") == {"stays"}
    assert topology.queues("/other", "direct", "elsewhere") == {"watched"}


def test_what_was_learnt_while_the_broker_was_asked_stays() -> None:
    topology = learnt()
    topology.bound("/", "fanout", "old", "")
    topology.bound("/", "fanout", "again", "")
    asked = topology.heard
    topology.bound("/", "fanout", "new", "")
    topology.bound("/", "fanout", "again", "")
    topology.exchange_declared("/", "young", "fanout")
    topology.exchange_declared("/", "direct", "fanout")
    topology.bound("/", "young", "new", "")
    topology.bound("/", "direct", "new", "")
    topology.replace("/", {"fanout": "fanout", "direct": "direct"}, [Binding("fanout", "first", "")], asked)
    assert topology.queues("/", "young", "k") == topology.queues("/", "direct", "k") == {"new"}
    assert topology.queues("/", "fanout", "") == {"first", "new", "again"}
    topology.replace("/", {"fanout": "fanout"}, [Binding("fanout", "first", "")], topology.heard)
    assert topology.queues("/", "fanout", "") == {"first"}


def test_too_many_bindings(caplog: pytest.LogCaptureFixture) -> None:
    topology = learnt()
    topology.watch([("/", "watched")])
    topology.bound("/", "direct", "watched", "first")
    with caplog.at_level(logging.WARNING):
        for number in range(MAX_BINDINGS + 10):
            topology.bound("/", "direct", f"q{number}", f"k{number}")
            if number == MAX_BINDINGS - 5:
                topology.bound("/", "direct", "q5", "k5")
    assert topology.forgotten == 11
    assert [record.getMessage()[:9] for record in caplog.records] == ["vhost '/'"]
    assert topology.queues("/", "direct", "first") == {"watched"}
    # Of q5 it has heard again, so that one is not among the oldest.
    known = [number for number in range(20) if topology.queues("/", "direct", f"k{number}")]
    assert known == [5, *range(12, 20)]
    for number in range(MAX_BINDINGS):
        topology.bound("/", "direct", "watched", f"w{number}")
    assert topology.queues("/", "direct", "first") == set()
    assert all(topology.queues("/", "direct", f"w{number}") for number in range(MAX_BINDINGS))
    assert topology.queues("/", "direct", f"k{MAX_BINDINGS}") == set()


def test_the_broker_says_too_much() -> None:
    topology = learnt()
    topology.watch([("/", "watched")])
    others = [Binding("direct", f"q{number}", f"k{number}") for number in range(MAX_BINDINGS + 30)]
    topology.replace("/", {"direct": "direct"}, [*others, Binding("direct", "watched", "k")])
    assert topology.queues("/", "direct", "k") == {"watched"}
    assert sum(1 for other in others if topology.queues("/", "direct", other.routing_key)) == MAX_BINDINGS - 1
    near = [Binding("direct", "watched", f"w{number}") for number in range(MAX_BINDINGS + 30)]
    topology.replace("/", {"direct": "direct"}, near)
    assert sum(1 for other in near if topology.queues("/", "direct", other.routing_key)) == MAX_BINDINGS


def test_too_many_words_exchanges_and_vhosts() -> None:
    topology = learnt()
    count = MAX_WORDS // 100
    for number in range(count + 50):
        topology.bound("/", "topic", f"q{number}", "#." * 99 + str(number))
    assert sum(1 for number in range(count + 50) if topology.queues("/", "topic", str(number))) == count
    for number in range(MAX_EXCHANGES + 50):
        topology.exchange_declared("/many", f"x{number}", "fanout")
    assert len(topology._vhosts["/many"].types) == MAX_EXCHANGES
    topology.replace("/many", {f"y{number}": "fanout" for number in range(MAX_EXCHANGES + 50)}, [])
    assert len(topology._vhosts["/many"].types) == MAX_EXCHANGES
    for number in range(MAX_VHOSTS + 50):
        topology.bound(str(number), "topic", "q", "#")
    assert topology.queues(str(MAX_VHOSTS), "topic", "k") == {"q"}
    assert topology.queues("0", "topic", "k") == set()
    assert len(topology._vhosts) == MAX_VHOSTS


_names = st.sampled_from(["x", "y", "z"])
_queues = st.sampled_from(["p", "q", "r"])
_keys = st.sampled_from(["", "a", "a.b", "a.#", "*.b", "#", "b.*"])
_changes = st.one_of(
    st.tuples(st.just("declared"), _names, st.sampled_from(["direct", "fanout", "topic"])),
    st.tuples(st.just("deleted"), _names),
    st.tuples(st.just("queue"), _queues),
    st.tuples(st.sampled_from(["bound", "unbound"]), _names, _queues, _keys),
    st.tuples(st.sampled_from(["exchange_bound", "exchange_unbound"]), _names, _names, _keys),
    st.tuples(st.just("watch"), st.sets(_queues)),
    st.tuples(st.just("replace"), st.sets(st.tuples(_names, _queues, _keys), max_size=6)),
)


@settings(max_examples=examples(400), deadline=None)
@given(changes=st.lists(_changes, max_size=30))
def test_the_same_as_a_plain_set_of_bindings(changes: list[tuple[object, ...]]) -> None:
    topology = Bindings()
    types: dict[object, object] = {}
    bindings: set[tuple[object, object, object, bool]] = set()
    watched: set[object] = set()
    for change in changes:
        match change:
            case ("declared", str(name), str(kind)):
                topology.exchange_declared("/", name, kind)
                # The one that reaches more.
                types[name] = max(kind, str(types.get(name, "")), key=["", "direct", "topic", "fanout"].index)
            case ("deleted", str(name)):
                topology.exchange_deleted("/", name)
                types.pop(name, None)
                bindings = {found for found in bindings if found[0] != name and (found[1], found[3]) != (name, True)}
            case ("queue", str(name)):
                topology.queue_deleted("/", name)
                bindings = {found for found in bindings if (found[1], found[3]) != (name, False)}
            case ("bound", str(source), str(target), str(key)):
                topology.bound("/", source, target, key)
                bindings.add((source, target, key, False))
            case ("unbound", str(source), str(target), str(key)):
                topology.unbound("/", source, target, key)
                bindings.discard((source, target, key, False))
            case ("exchange_bound", str(source), str(target), str(key)):
                topology.exchange_bound("/", source, target, key)
                bindings.add((source, target, key, True))
            case ("exchange_unbound", str(source), str(target), str(key)):
                topology.exchange_unbound("/", source, target, key)
                bindings.discard((source, target, key, True))
            case ("watch", set(queues)):
                topology.watch(("/", str(queue)) for queue in queues)
                watched = queues
            case ("replace", set(found)):
                known = {str(name): str(kind) for name, kind in types.items()}
                topology.replace("/", known, [Binding(source, target, key) for source, target, key in found])
                bindings = {(source, target, key, False) for source, target, key in found}
    for exchange in ("x", "y", "z"):
        for routing_key in ("", "a", "a.b", "b", "c.b"):
            expected = _reached(types, bindings, exchange, routing_key)
            assert topology.queues("/", exchange, routing_key) == expected
            assert topology.watched_queues("/", exchange, routing_key) == expected & watched


def _reached(
    types: dict[object, object],
    bindings: set[tuple[object, object, object, bool]],
    exchange: str,
    routing_key: str,
) -> set[object]:
    exchanges: set[object] = {exchange}
    queues: set[object] = set()
    while True:
        before = len(exchanges)
        for source, target, key, to_exchange in bindings:
            kind = types.get(source)
            fits = (
                kind == "fanout"
                or key == routing_key
                or (kind != "direct" and compile_pattern(str(key))(routing_key))
                or (kind is None and key == "")
            )
            if source in exchanges and fits:
                (exchanges if to_exchange else queues).add(target)
        if len(exchanges) == before:
            return queues


def test_how_long_a_message_is_kept_where_it_leads_to() -> None:
    topology = learnt()
    topology.queue_declared("/", "events", True, {"x-message-ttl": 5000, "x-expires": 60_000})
    topology.queue_declared("/", "control", True, {"x-message-ttl": 300_000, "x-expires": 10_000})
    topology.queue_declared("/", "kept", False, {"x-message-ttl": 300_000, "x-expires": 10_000})
    topology.queue_declared("/", "at once", False, {"x-message-ttl": 0})
    topology.queue_declared("/", "odd", False, {"x-message-ttl": "5000", "x-expires": True})
    topology.queue_declared("/", "plain", False, {})
    lives = {
        "events": (5.0, True),
        "control": (10.0, True),
        "kept": (300.0, False),
        "at once": (0.001, False),
        "odd": (0.0, False),
        "plain": (0.0, False),
        "unknown": (0.0, False),
    }
    assert {name: topology.life("/", "", name) for name in lives} == lives
    assert topology.life("/other", "", "events") == (0.0, False)
    assert topology.life("/", "fanout", "x") == (0.0, False)
    topology.bound("/", "fanout", "events", "")
    assert topology.life("/", "fanout", "x") == (5.0, True)
    topology.bound("/", "fanout", "control", "")
    assert topology.life("/", "fanout", "x") == (10.0, True)
    topology.bound("/", "fanout", "kept", "")
    assert topology.life("/", "fanout", "x") == (300.0, False)
    topology.bound("/", "fanout", "plain", "")
    assert topology.life("/", "fanout", "x") == (0.0, False)
    topology.queue_deleted("/", "plain")
    topology.queue_deleted("/", "kept")
    assert topology.life("/", "fanout", "x") == (10.0, True)
    version = topology.version
    topology.queue_declared("/", "control", True, {"x-message-ttl": 300_000, "x-expires": 10_000})
    assert topology.version == version
    topology.queue_declared("/", "control", False, {})
    assert topology.version > version
    assert topology.life("/", "fanout", "x") == (0.0, False)


def test_what_is_remembered_of_queues_is_bounded() -> None:
    topology = Bindings()
    topology.queue_declared("/", "first", True, {"x-expires": 1000})
    for number in range(MAX_QUEUES):
        topology.queue_declared("/", f"q{number}", True, {"x-expires": 1000})
    assert topology.life("/", "", "first") == (0.0, False)
    assert topology.life("/", "", "q0") == (1.0, True)


def test_an_exchange_that_ends_with_its_broker_and_leads_nowhere() -> None:
    topology = Bindings()
    assert not topology.fleeting("/", "control", "")
    topology.exchange_declared("/", "control", "fanout", False)
    topology.exchange_declared("/", "durable", "fanout", True)
    topology.exchange_declared("/", "amq.fanout", "fanout", False)
    assert topology.fleeting("/", "control", "x")
    assert not topology.fleeting("/other", "control", "x")
    assert not topology.fleeting("/", "durable", "x")
    assert not topology.fleeting("/", "amq.fanout", "x")
    assert not topology.fleeting("/", "", "x")
    topology.bound("/", "control", "somebody", "")
    assert not topology.fleeting("/", "control", "x")
    topology.queue_deleted("/", "somebody")
    assert topology.fleeting("/", "control", "x")
    version = topology.version
    topology.exchange_declared("/", "control", "fanout", True)
    assert topology.version > version
    assert not topology.fleeting("/", "control", "x")
    topology.exchange_declared("/", "control", "fanout", False)
    topology.exchange_deleted("/", "control")
    assert not topology.fleeting("/", "control", "x")
