"""A sidecar takes the place of another one that has the same folder, as in a rolling update: it waits until that one
has drained, or is dead, and then sends what is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.amqp_clients.raw import Listener, RawClient
from support.processes import Sidecar, ending, free_port, get, wait_for
from support.rabbitmq import GUEST, RabbitMQ, behind_sidecar
from support.recorder import Recorder, post, queueing_sidecar
from support.spooled import bodies
from support.wire import Wire

MESSAGES = 40
#: How the first one ends.
ENDS: list[Callable[[Sidecar], Any]] = [Sidecar.terminate, Sidecar.kill]


class Places:
    """One folder, and sidecars that want it, each on ports of its own."""

    def __init__(self, folder: Path, config: Callable[[int], dict[str, Any]]) -> None:
        self._folder = folder
        self._config = config
        self._count = 0

    def start(self) -> tuple[Sidecar, int, str]:
        """The next one; its port and its admin API's URL."""
        self._count += 1
        port, admin = free_port(), f"127.0.0.1:{free_port()}"
        config = self._config(port) | {"admin": {"bind": admin}, "drain": {"timeout": "1s"}}
        return Sidecar(self._folder, config, f"sidecar-{self._count}"), port, f"http://{admin}"


def waits(sidecar: Sidecar, admin: str, first: Sidecar, port: int) -> None:
    """It says that it does, and for whom, and does not listen."""
    answer = wait_for(lambda: _not_ready(admin), "it waits")
    assert f"in use by another process, {first.pid}" in answer["waiting_for"]
    wait_for(lambda: '"not listening yet: ' in sidecar.output(), "the log has it, too")
    assert get(f"http://127.0.0.1:{port}/") == (0, "<urlopen error [Errno 111] Connection refused>")
    assert get(f"{admin}/health")[0] == 200


def _not_ready(admin: str) -> Any:
    status, answer = get(f"{admin}/ready")
    return answer if status == 503 and "waiting_for" in answer else None


def test_one_that_waits_ends_at_once_and_leaves_all_as_it_is(tmp_path: Path) -> None:
    places = Places(tmp_path, lambda port: queueing_sidecar(tmp_path, free_port(), port))
    first, port, _ = places.start()
    with ending(first) as processes:
        first.ready()
        assert post(port, "stored")[0] == 202
        second, its_port, admin = places.start()
        processes.append(second)
        waits(second, admin, first, its_port)
        began = time.monotonic()
        assert second.terminate() == 0
        assert time.monotonic() - began < 20
        assert get(f"{first.admin}/ready")[0] == 200
        assert post(port, "stored, too")[0] == 202
        assert 'sidecar_queued_requests{upstream="tasks"} 2.0' in get(f"{first.admin}/metrics")[1]


@pytest.mark.parametrize("end", ENDS, ids=["drained", "killed"])
def test_queued_requests_are_delivered_by_the_next_one(tmp_path: Path, end: Callable[[Sidecar], Any]) -> None:
    app_port = free_port()
    places = Places(tmp_path, lambda port: queueing_sidecar(tmp_path, app_port, port))
    first, port, _ = places.start()
    with ending(first) as processes:
        first.ready()
        for number in range(MESSAGES):
            assert post(port, f"n{number}")[0] == 202
        second, its_port, admin = places.start()
        processes.append(second)
        waits(second, admin, first, its_port)
        end(first)
        second.ready()
        app = Recorder(tmp_path, app_port, 0)
        processes.append(app)
        wait_for(lambda: len(app.got()) == MESSAGES, "the app has all of them")
        assert sorted(body for body, _ in app.got()) == sorted(f"n{number}" for number in range(MESSAGES))
        assert '"level":"error"' not in second.output()


@pytest.mark.parametrize("end", ENDS, ids=["drained", "killed"])
def test_spooled_messages_are_sent_by_the_next_one(
    rabbitmq: RabbitMQ, tmp_path: Path, end: Callable[[Sidecar], Any]
) -> None:
    queue = "rolling"
    rabbitmq.declare(queue, durable=True)
    with Wire(rabbitmq.port) as wire, ending() as processes:

        def config(port: int) -> dict[str, Any]:
            found = behind_sidecar(wire.port, credentials=GUEST, spool={"path": str(tmp_path / "spool")})
            found["upstreams"]["rabbitmq"]["bind"] = f"127.0.0.1:{port}"
            return found

        places = Places(tmp_path, config)
        first, port, _ = places.start()
        processes.append(first)
        first.ready()
        with Listener(RawClient(port).open_channel().confirms()) as client:
            wire.cut()
            for number in range(MESSAGES):
                client.publish(queue, b"%d" % number)
            wait_for(lambda: client.confirmed() == MESSAGES, "all are in the spool")
            second, its_port, admin = places.start()
            processes.append(second)
            waits(second, admin, first, its_port)
            end(first)
        second.ready()
        wire.mend()
        assert list(dict.fromkeys(bodies(rabbitmq, queue, MESSAGES, 60))) == [b"%d" % n for n in range(MESSAGES)]
        assert '"level":"error"' not in second.output()
    rabbitmq.delete(queue)
