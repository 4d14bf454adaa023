"""Requests are queued by a real sidecar while their upstream is dead, and none that was acknowledged is lost. With
``SIDECAR_SOAK=1`` the sidecar is killed four times as often."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from support.processes import Sidecar, ending, free_port, get, wait_for
from support.recorder import Recorder, post, queueing_sidecar

LIVES = 16 if os.environ.get("SIDECAR_SOAK") == "1" else 4


def _ended(port: int, location: str) -> Any:
    status, body = get(f"http://127.0.0.1:{port}{location}")
    assert status in (0, 200), (status, body)
    return body if status and body["status"] in ("done", "failed") else None


def test_an_outage_is_bridged(tmp_path: Path) -> None:
    app_port = free_port()
    with ending(Sidecar(tmp_path, queueing_sidecar(tmp_path, app_port))) as processes:
        sidecar = processes[0]
        assert isinstance(sidecar, Sidecar)
        port = sidecar.ready().port("tasks")
        app = Recorder(tmp_path, app_port, 0)
        processes.append(app)
        app.ready()
        assert post(port, "direct")[0] == 201
        app.kill()
        locations = {}
        for number in range(100):
            status, fields, body = post(port, f"queued-{number}", **{"Idempotency-Key": f"k{number}"})
            if status == 502:  # the connection that was kept from before: nobody knows what became of that one
                status, fields, body = post(port, f"queued-{number}", **{"Idempotency-Key": f"k{number}"})
            assert status == 202, (number, status, body)
            assert json.loads(body)["status"] == "queued"
            locations[number] = fields["location"]
        assert len(set(locations.values())) == 100
        status, page = get(f"{sidecar.admin}/metrics")
        assert 'sidecar_queued_requests{upstream="tasks"} 100.0' in page
        app = Recorder(tmp_path, app_port, 1)
        processes.append(app)
        for number, location in locations.items():
            state = wait_for(lambda location=location: _ended(port, location), f"{number} is delivered", 30)  # type: ignore[misc]
            assert (state["status"], state["answer"]["status"]) == ("done", 201)
            status, body = get(f"http://127.0.0.1:{port}{location}/outcome")
            assert (status, body) == (201, f"done queued-{number}")
        queued = [(body, id) for body, id in app.got() if id != "-"]
        assert sorted(queued) == sorted(
            (f"queued-{number}", location.rpartition("/")[2]) for number, location in locations.items()
        )
        page = get(f"{sidecar.admin}/metrics")[1]
        assert 'sidecar_queued_requests{upstream="tasks"} 0.0' in page
        assert 'sidecar_queued_total{upstream="tasks",outcome="delivered"} 100.0' in page


def test_a_killed_sidecar_has_lost_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    rng = random.Random(1)
    app_port, port = free_port(), free_port()
    config = queueing_sidecar(tmp_path, app_port, port, concurrency=8)
    acknowledged: dict[str, str] = {}
    with ending() as processes:
        app: Recorder | None = None
        number = 0
        for life in range(LIVES):
            sidecar = Sidecar(tmp_path, config, f"sidecar-{life}")
            processes.append(sidecar)
            sidecar.ready()
            if life % 2:
                # Deliveries are under way, too, when it dies, and more wait.
                app = Recorder(tmp_path, app_port, life)
                processes.append(app)
                app.gets_more()
            for _ in range(rng.randint(0, 20) if life % 2 else rng.randint(80, 120)):
                number += 1
                status, fields, _ = post(port, f"n{number}")
                if status == 202:
                    acknowledged[f"n{number}"] = fields["location"]
            sidecar.kill()
            if app is not None:
                app.kill()
        assert len(acknowledged) > 50
        sidecar = Sidecar(tmp_path, config, "sidecar-last")
        app = Recorder(tmp_path, app_port, 99)
        processes += [sidecar, app]
        sidecar.ready()
        for body, location in acknowledged.items():
            state = wait_for(lambda location=location: _ended(port, location), f"{body} is delivered", 30)  # type: ignore[misc]
            assert state["status"] == "done"
        got = Counter(body for body, _ in app.got())
        assert [body for body in acknowledged if not got[body]] == []
        # At least once: what was under way when a process died may have come again, and nothing else.
        assert sum(n - 1 for n in got.values()) <= LIVES // 2 * 8
        assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700
        assert {it.stat().st_mode & 0o777 for it in (tmp_path / "spool").iterdir()} == {0o600}


def test_what_was_acknowledged_is_delivered_after_a_reload_without_the_queue(tmp_path: Path) -> None:
    app_port, port = free_port(), free_port()
    config = queueing_sidecar(tmp_path, app_port, port)
    config["admin"] = {"bind": "127.0.0.1:0"}
    plain = copy.deepcopy(config)
    del plain["upstreams"]["tasks"]["routes"]
    with ending(Sidecar(tmp_path, config)) as processes:
        sidecar = processes[0]
        assert isinstance(sidecar, Sidecar)
        sidecar.ready()
        # As many fields as a client may send: what we add must not be too much.
        filler = {f"x-filler-{number}": "x" for number in range(96)}
        status, fields, _ = post(port, "acknowledged", **filler)
        assert status == 202
        file = tmp_path / "sidecar.yaml"
        file.write_text(yaml.safe_dump({**plain, "upstreams": {}}))
        sidecar.popen.send_signal(signal.SIGHUP)
        wait_for(lambda: "1 requests are stored for it" in sidecar.output(), "that is refused")
        file.write_text(yaml.safe_dump(plain))
        sidecar.popen.send_signal(signal.SIGHUP)
        wait_for(lambda: '"reloaded"' in sidecar.output(), "the queue is taken out")
        wait_for(lambda: "is delivered all the same" in sidecar.output(), sidecar.output)
        app = Recorder(tmp_path, app_port, 0)
        processes.append(app)
        state = wait_for(lambda: _ended(port, fields["location"]), "it is delivered", 30)
        assert (state["status"], state["answer"]["status"]) == ("done", 201)
        assert [body for body, _ in app.got()] == ["acknowledged"]
        assert sidecar.terminate() == 0
