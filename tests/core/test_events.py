from __future__ import annotations

import logging
import threading

import pytest

from sidecar.core.events import KINDS, MAX_ITEMS, MAX_TEXT, Events
from support.clock import Clock

logger = logging.getLogger("sidecar.test")


def test_an_event_is_a_line_a_count_and_one_of_the_last(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(5.0)
    events = Events(wall=clock)
    with caplog.at_level(logging.INFO, "sidecar.test"):
        events.tell(logger, logging.WARNING, "ejection", "a%s is ejected", "tasks", endpoint="10.0.0.1:80")
    (line,) = caplog.records
    assert line.getMessage() == "a%s is ejected"
    assert (line.levelname, vars(line)["event"], vars(line)["upstream"]) == ("WARNING", "ejection", "tasks")
    assert vars(line)["endpoint"] == "10.0.0.1:80"
    (event,) = events.since()
    assert event == (1, 5.0, "ejection", "tasks", "a%s is ejected", {"endpoint": "10.0.0.1:80"}, "warning")
    assert events.counts["ejection"] == 1
    assert sum(events.counts.values()) == 1


def test_a_level_that_is_not_logged_changes_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    events = Events()
    with caplog.at_level(logging.ERROR, "sidecar.test"):
        events.tell(logger, logging.INFO, "ready", "ready")
    assert not caplog.records
    assert events.counts["ready"] == len(events.since()) == 1


def test_the_last_are_remembered_and_each_is_bounded() -> None:
    events = Events(most=3)
    for number in range(10):
        events.tell(
            logger, logging.DEBUG, "reload", f"{number}" * MAX_TEXT * 2, changes=[str(number)] * 1000, of={1: 2}
        )
    assert [event.id for event in events.since()] == [8, 9, 10]
    assert [event.id for event in events.since(9)] == [10]
    assert events.since(10) == []
    assert [event.id for event in events.since(11)] == [8, 9, 10], "a number of the run before"
    last = events.since(9)[0]
    assert len(last.text) == MAX_TEXT + 1
    assert len(last.details["changes"]) == MAX_ITEMS + 1
    assert last.details["changes"][-1] == "and 990 more"
    assert last.details["of"] == "{1: 2}"


def test_threads_tell_together() -> None:
    events = Events(most=10_000)

    def tell() -> None:
        for _ in range(200):
            events.tell(logger, logging.DEBUG, "spool", "x")

    threads = [threading.Thread(target=tell) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert events.counts["spool"] == 1000
    assert [event.id for event in events.since()] == list(range(1, 1001))


def test_kinds_are_sorted() -> None:
    assert list(KINDS) == sorted(KINDS)
