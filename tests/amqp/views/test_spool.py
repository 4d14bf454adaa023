"""What is said about spools."""

from __future__ import annotations

from sidecar.admin import report
from sidecar.amqp.views import spool
from support.fake_spool import FakeSpool, damaged, letter
from support.running import FakeRunning, FakeUpstream, running


def broker() -> tuple[FakeRunning, FakeSpool]:
    it = running()
    it.upstreams["rabbitmq"] = upstream = FakeUpstream("rabbitmq", protocol="amqp")
    assert upstream.amqp is not None
    upstream.amqp.spool = kept = FakeSpool()
    return it, kept


def test_everything_about_a_spool() -> None:
    _, kept = broker()
    kept.key("exchange ai.tasks", 3, 900)
    kept.key("queue \udcff", 5, 500, "/agents")
    kept.spooled, kept.replayed, kept.expired, kept.corrupt = 20, 9, 2, 1
    kept.acks = {"broker": 7, "spool": 20}
    kept.dead_letters.add(letter(1), letter(2), damaged(3))
    kept.dead_letters.dropped = 4
    kept.parked = 6
    kept.still = 1.23456
    kept.obstacles = [("/", "", "no route"), ("/agents", "\udcff", "ACCESS_REFUSED")]
    assert spool.state(kept) == {
        "messages": 8,
        "bytes": 1400,
        "max_bytes": 1 << 30,
        "full": False,
        "problem": "",
        "still_seconds": 1.235,
        "parked": 6,
        "obstacles": [
            {"vhost": "/", "user": "", "problem": "no route"},
            {"vhost": "/agents", "user": "\\udcff", "problem": "ACCESS_REFUSED"},
        ],
        "spooled": 20,
        "replayed": 9,
        "expired": 2,
        "corrupt": 1,
        "acks": {"broker": 7, "spool": 20},
        "keys": 2,
        "waiting": [
            {"vhost": "/agents", "lane": "queue \\udcff", "messages": 5, "bytes": 500},
            {"vhost": "/", "lane": "exchange ai.tasks", "messages": 3, "bytes": 900},
        ],
        "dead_letters": {
            "messages": 3,
            "bytes": kept.dead_letters.bytes,
            "dropped": 4,
            "reasons": {"nacked": 2, "corrupt": 1},
        },
    }
    assert spool.state(None) is None


def test_of_many_keys_those_with_the_most_messages_are_listed() -> None:
    _, kept = broker()
    for number in range(1000):
        kept.key(f"queue {number}", number + 1, 1)
    state = spool.state(kept)
    assert state is not None
    assert state["keys"] == 1000
    assert [key["messages"] for key in state["waiting"]] == list(range(1000, 1000 - spool.MAX_KEYS, -1))


def test_reasons_that_look_the_same_are_one() -> None:
    assert spool.reasons({"\udcff": 1, "\\udcff": 2, "expired": 9}) == {"expired": 9, "\\udcff": 3}


def test_what_is_wrong_with_a_spool_is_a_warning() -> None:
    it, kept = broker()
    upstream = it.upstreams["rabbitmq"]
    assert report.upstream_health(upstream.now)["status"] == "healthy"
    kept.full = True
    assert report.upstream_health(upstream.now) == {"status": "warning", "output": "the spool is full"}
    kept.problem = "no space left on device"
    assert report.upstream_health(upstream.now)["output"] == "the spool does not work: no space left on device"


def test_what_keeps_the_spool_from_being_sent_is_a_warning() -> None:
    it, kept = broker()
    upstream = it.upstreams["rabbitmq"]
    kept.obstacles = [("/", "", "the broker refuses the login")] * (spool.MAX_OBSTACLES + 1)
    assert report.upstream_health(upstream.now)["status"] == "healthy"
    kept.key("exchange ai.tasks", 3, 900)
    assert report.upstream_health(upstream.now) == {
        "status": "warning",
        "output": "what is in the spool waits: the broker refuses the login",
    }
    state = spool.state(kept)
    assert state is not None
    assert len(state["obstacles"]) == spool.MAX_OBSTACLES


def test_connections_without_a_broker_are_a_warning() -> None:
    it, _ = broker()
    view = it.upstreams["rabbitmq"].amqp
    assert view is not None
    view.stats.detached = 3
    assert report.upstream_health(it.upstreams["rabbitmq"].now)["output"] == "3 connections are without a broker"
