"""When a broker that is connected, and does nothing, is given up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from sidecar.amqp.failover.watchdog import STUCK_SECONDS, Watchdog
from sidecar.amqp.listener import TICK


class Sight:
    """A session with a publish that its broker does not confirm, looked at as a port does it."""

    def __init__(self) -> None:
        self.broker: Any = SimpleNamespace(reads=1, reading_paused=False)
        self.confirms = SimpleNamespace(unanswered=1)
        channel = SimpleNamespace(path=SimpleNamespace(confirms=self.confirms))
        stats = SimpleNamespace(blocked=False)
        self.now = 1000.0
        session = SimpleNamespace(channels={1: channel}, amqp_stats=stats, started=self.now)
        self.stats = stats
        self._watchdog = Watchdog(cast(Any, session))

    def look(self, after: float = TICK) -> bool:
        self.now += after
        return self._watchdog.look(self.broker, self.now)

    def given_up_after(self, most: float = 60.0) -> float:
        """Seconds."""
        began = self.now
        while not self.look():
            assert self.now - began < most, "it is not given up"
        return self.now - began


def test_one_that_says_nothing_is_given_up() -> None:
    it = Sight()
    it.look()
    assert it.given_up_after() == pytest.approx(STUCK_SECONDS, abs=2 * TICK)


def test_a_process_that_did_not_run_has_heard_nothing() -> None:
    """What was said meanwhile is read after the first look, or even later."""
    it = Sight()
    it.look()
    assert not it.look(after=60.0)
    assert not it.look()
    it.broker.reads += 1
    assert not it.look()
    assert it.given_up_after() == pytest.approx(STUCK_SECONDS, abs=2 * TICK)


def test_one_that_is_silent_after_that_is_given_up() -> None:
    it = Sight()
    it.look()
    assert not it.look(after=60.0)
    assert STUCK_SECONDS - 4 * TICK < it.given_up_after() <= STUCK_SECONDS


@pytest.mark.parametrize("why", ["a word", "another broker", "no publish waits", "we do not read", "it is blocked"])
def test_what_is_no_silence(why: str) -> None:
    it = Sight()
    for _ in range(int(STUCK_SECONDS / TICK)):
        assert not it.look()
    if why == "a word":
        it.broker.reads += 1
    elif why == "another broker":
        it.broker = SimpleNamespace(reads=it.broker.reads, reading_paused=False)
    elif why == "no publish waits":
        it.confirms.unanswered = 0
    elif why == "we do not read":
        it.broker.reading_paused = True
    else:
        it.stats.blocked = True
    assert not it.look()
    it.broker.reading_paused = it.stats.blocked = False
    it.confirms.unanswered = 1
    assert it.given_up_after() == pytest.approx(STUCK_SECONDS, abs=2 * TICK)
