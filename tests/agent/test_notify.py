"""What systemd is told, by a socket of the test's own."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from sidecar.agent.notify import Notifier
from support.live import run
from support.notified import Manager


def test_every_word_over_a_path(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        it = Notifier({"NOTIFY_SOCKET": manager.address})
        it.status("starting:\n  slow")
        assert manager.hears() == {"STATUS": "starting: slow"}, "one line"
        it.ready("shop: 2 listeners")
        assert manager.hears() == {"READY": "1", "STATUS": "shop: 2 listeners"}
        before = time.monotonic_ns() // 1000
        it.reloading()
        found = manager.hears()
        assert before <= int(found.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
        assert found == {"RELOADING": "1", "STATUS": "reading its file again"}
        it.stopping("draining")
        assert manager.hears() == {"STOPPING": "1", "STATUS": "draining"}


def test_an_abstract_name_and_a_watchdog() -> None:
    async def main() -> None:
        with Manager() as manager:
            environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": "7"}
            it = Notifier(environment, pid=7)
            it.watch(asyncio.get_running_loop())
            for _ in range(3):
                assert await asyncio.to_thread(manager.hears) == {"WATCHDOG": "1"}
            it.close()
            Notifier(environment, pid=8).watch(asyncio.get_running_loop())
            it.status("the end")
            assert manager.hears_of("STATUS") == {"STATUS": "the end"}, "nothing for another process's watchdog"

    run(main)


def test_nobody_asks() -> None:
    it = Notifier({"WATCHDOG_USEC": "1000000"})
    it.ready("x")
    it.close()


@pytest.mark.parametrize("usec", ["x", "-5", "19999", ""])
def test_a_watchdog_that_cannot_be_one(usec: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with Manager() as manager:
            it = Notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": usec})
            it.watch(asyncio.get_running_loop())
            it.status("first")
            assert manager.hears() == {"STATUS": "first"}

    run(main)
    assert ("WATCHDOG_USEC" in caplog.text) == bool(usec)


def test_an_address_that_is_none_and_one_at_which_nobody_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sidecar.agent"):
        Notifier({"NOTIFY_SOCKET": "vsock:2:1234"}).ready("x")
        assert "neither a path nor an abstract name" in caplog.text
        it = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
        it.ready("x")
        it.status("x")
    assert caplog.text.count("cannot be told") == 1
