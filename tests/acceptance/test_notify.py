"""A sidecar as a unit of systemd, whose part is played by a socket."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from support.notified import Manager
from support.processes import Sidecar, ending


def test_from_the_start_to_the_end(tmp_path: Path) -> None:
    with Manager(tmp_path) as systemd:
        environment = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "500000"}
        sidecar = Sidecar(tmp_path, {"service": {"name": "shop"}}, env=environment)
        with ending(sidecar):
            assert systemd.hears_of("STATUS") == {"STATUS": "starting"}
            assert systemd.hears_of("READY")["STATUS"] == "shop: 0 listeners"
            assert systemd.hears_of("WATCHDOG") == {"WATCHDOG": "1"}

            before = time.monotonic_ns() // 1000
            sidecar.popen.send_signal(signal.SIGHUP)
            assert int(systemd.hears_of("RELOADING")["MONOTONIC_USEC"]) >= before
            assert "not reloaded" not in systemd.hears_of("READY")["STATUS"]

            sidecar.file.write_text("service: {nmae: shop}")
            sidecar.popen.send_signal(signal.SIGHUP)
            systemd.hears_of("RELOADING")
            assert "; not reloaded: " in systemd.hears_of("READY")["STATUS"], "it serves on"

            assert sidecar.terminate() == 0
            assert systemd.hears_of("STOPPING")["STATUS"] == "draining"
            assert '"level":"warning"' not in sidecar.output()
