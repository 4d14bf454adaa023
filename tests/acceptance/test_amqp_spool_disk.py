"""A spool whose disk is full or read-only, or whose folder is taken away: nothing is acknowledged that is not safe,
nobody crashes, and what the broker can take goes on to it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pamqp import commands
from pika.adapters.blocking_connection import BlockingChannel

from sidecar.amqp.spool.writer import RETRY
from support.amqp_clients.raw import Listener
from support.deletion import delete
from support.patience import PATIENCE
from support.processes import Process, Sidecar, ending, wait_for
from support.rabbitmq import GUEST, RabbitMQ, behind_sidecar
from support.spooled import Spooled, bodies, first_times
from support.wire import Wire

ENCLOSED = pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="a file system of its own needs root and mount namespaces",
)
KIB = b" " + b"x" * 1000
#: More of these than a small disk has room for.
LARGE = b" " + b"x" * 5000
MANY = 1000


class Enclosed(Sidecar):
    """With a small file system of its own at the place of the spool, which nobody else sees."""

    def __init__(self, folder: Path, config: dict[str, Any], options: str = "size=8m") -> None:
        self.mounted = Path(config["upstreams"]["rabbitmq"]["amqp"]["spool"]["path"])
        self.mounted.mkdir()
        self.file = folder / "enclosed.yaml"
        self.file.write_text(yaml.safe_dump({"admin": {"bind": "127.0.0.1:0"}, **config}))
        mount = f'mount -t tmpfs -o mode=700,{options} none "$0" && exec "$@"'
        run = [sys.executable, "-m", "sidecar", "run", str(self.file)]
        Process.__init__(self, ["unshare", "-m", "sh", "-c", mount, str(self.mounted), *run], folder / "enclosed.log")
        self._ready = {}

    def mount(self, *options: str) -> None:
        """``mount``, or another command, as it sees it."""
        command = options if options[0] == "umount" else ("mount", *options)
        subprocess.run(["nsenter", "-m", "-t", str(self.pid), *command, str(self.mounted)], check=True)


class EnclosedSpool(Spooled):
    sidecar: Enclosed

    def start(self) -> EnclosedSpool:
        self.sidecar = Enclosed(self.folder, self.config)
        self.sidecar.ready()
        return self


@pytest.fixture(scope="module")
def wire(rabbitmq: RabbitMQ) -> Iterator[Wire]:
    for queue in ("disk.q", "disk.other"):
        rabbitmq.declare(queue, durable=True)
    with Wire(rabbitmq.port) as found:
        yield found
    for queue in ("disk.q", "disk.other"):
        rabbitmq.delete(queue)


@pytest.fixture(autouse=True)
def mended(wire: Wire) -> Iterator[None]:
    wire.mend()
    yield
    wire.mend()


def publish(publisher: Listener, first: int, count: int, queue: str = "disk.q", body: bytes = KIB) -> None:
    for number in range(first, first + count):
        publisher.publish(queue, b"%d" % number + body)


def acknowledged(publisher: Listener, count: int, seconds: float = PATIENCE) -> None:
    wait_for(lambda: len(publisher.answered()) == count, f"{count} are acknowledged", seconds)
    assert not publisher.methods(commands.Basic.Nack)


def arrived(broker: RabbitMQ, count: int, first: int = 0, spooled: Spooled | None = None) -> None:
    """All, in order. (What was sent and could not be removed from a spool on such a disk may come twice, even after
    what is published later.) If not, what ``spooled`` says of itself."""
    wanted = range(first, first + count)
    found: list[int] = []

    def complete() -> bool:
        found.extend(int(body.split()[0]) for body in bodies(broker, "disk.q"))
        return set(found) >= set(wanted)

    def problem() -> str:
        missing = sorted(set(wanted) - set(found))
        text = f"all have come; {len(missing)} have not: {missing[:10]}"
        return text if spooled is None else f"{text}; {spooled.view()}; {spooled.sidecar.output()[-4000:]}"

    wait_for(complete, problem)
    order = first_times([number for number in found if number in wanted])
    turns = [(a, b) for a, b in itertools.pairwise(order) if b != a + 1]
    assert not turns, f"one after the other, out of order: {turns[:10]}"


def relays(spooled: Spooled, broker: RabbitMQ) -> None:
    """Other clients have nothing to do with it."""
    with spooled.listener() as other:
        publish(other, 0, 10, "disk.other")
        acknowledged(other, 10)
    assert len(bodies(broker, "disk.other", 10)) == 10


def test_what_comes_when_a_look_at_the_queue_is_over_is_there_at_the_next_one(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would seem to be lost by the sidecar."""
    cancel = BlockingChannel.cancel

    def late(channel: BlockingChannel) -> Any:
        with rabbitmq.channel() as other:
            other.confirm_delivery()
            other.basic_publish("", "disk.other", b"late")
        return cancel(channel)

    with monkeypatch.context() as patch:
        patch.setattr(BlockingChannel, "cancel", late)
        assert bodies(rabbitmq, "disk.other") == []
    assert bodies(rabbitmq, "disk.other", 1) == [b"late"]


@ENCLOSED
def test_the_disk_is_full(rabbitmq: RabbitMQ, wire: Wire, tmp_path: Path) -> None:
    began = time.monotonic()
    with EnclosedSpool(tmp_path, wire.port) as spooled, spooled.listener() as publisher:
        wire.cut()
        spooled.away()
        publish(publisher, 0, MANY, body=LARGE)
        problem = wait_for(lambda: spooled.spool()["problem"], "it knows that the disk is full")
        assert "full" in problem
        assert 0 < len(publisher.answered()) < MANY
        # With the broker there, nobody needs the disk: what is on it leaves, and what waits for room on it follows.
        wire.mend()
        spooled.attached()
        relays(spooled, rabbitmq)
        acknowledged(publisher, MANY)
        arrived(rabbitmq, MANY, spooled=spooled)
        # It is empty now, so some can be stored again; and with more room, all.
        wait_for(lambda: not spooled.spool()["problem"], "it works again")
        wire.cut()
        spooled.away()
        publish(publisher, MANY, MANY, body=LARGE)
        assert wait_for(lambda: spooled.spool()["problem"], "it is full again")
        spooled.sidecar.mount("-o", "remount,size=64m")
        acknowledged(publisher, 2 * MANY)
        wire.mend()
        arrived(rabbitmq, MANY, MANY, spooled)
        # It is told of once each time that it is tried again, not once a message.
        assert len(spooled.errors()) <= 2 + (time.monotonic() - began) / RETRY


@ENCLOSED
@pytest.mark.skipif(os.environ.get("SIDECAR_SOAK") != "1", reason="much like the others: set SIDECAR_SOAK=1")
def test_the_disk_is_read_only(rabbitmq: RabbitMQ, wire: Wire, tmp_path: Path) -> None:
    with EnclosedSpool(tmp_path, wire.port) as spooled, spooled.listener() as publisher:
        wire.cut()
        spooled.away()
        publish(publisher, 0, 100)
        acknowledged(publisher, 100)
        spooled.sidecar.mount("-t", "tmpfs", "-o", "ro", "none")  # over the other, which is not to be seen any more
        publish(publisher, 100, 100)
        problem = wait_for(lambda: spooled.spool()["problem"], "it knows")
        assert "Read-only" in problem
        count = len(publisher.answered())
        wire.mend()
        spooled.attached()
        relays(spooled, rabbitmq)
        wire.cut()
        spooled.away()
        publish(publisher, 200, 100)
        assert len(publisher.answered()) == count < 200
        spooled.sidecar.mount("umount")
        acknowledged(publisher, 300)
        wire.mend()
        arrived(rabbitmq, 300)
        assert not any("Traceback" in line for line in spooled.errors())


def test_the_folder_is_deleted_and_something_else_is_there(rabbitmq: RabbitMQ, wire: Wire, tmp_path: Path) -> None:
    with Spooled(tmp_path, wire.port) as spooled, spooled.listener() as publisher:
        wire.cut()
        spooled.away()
        publish(publisher, 0, 100)
        acknowledged(publisher, 100)
        delete(spooled.path)
        publish(publisher, 100, 100)
        acknowledged(publisher, 200)
        delete(spooled.path)
        spooled.path.write_text("not a folder")
        publish(publisher, 200, 100)
        assert wait_for(lambda: spooled.spool()["problem"], "it knows")
        assert len(publisher.answered()) == 200
        spooled.path.unlink()
        acknowledged(publisher, 300)
        spooled.sidecar.kill()
        spooled.start()
        wire.mend()
        arrived(rabbitmq, 300)


@pytest.mark.parametrize("kind", ["file", pytest.param("read-only", marks=ENCLOSED)])
def test_it_does_not_start_without_its_folder(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "spool"
    config = behind_sidecar(1, credentials=GUEST, spool={"path": str(path)})
    if kind == "file":
        path.write_text("not a folder")
        sidecar = Sidecar(tmp_path, config)
    else:
        sidecar = Enclosed(tmp_path, config, options="ro")
    with ending(sidecar):
        assert sidecar.popen.wait(PATIENCE) != 0
        assert "Traceback" not in sidecar.output()
        assert str(path) in sidecar.output()
        assert ("Not a directory" if kind == "file" else "Read-only file system") in sidecar.output()


@pytest.mark.parametrize("how", ["the client leaves", "the sidecar stops"])
def test_what_a_full_spool_has_no_room_for_is_not_lost(
    rabbitmq: RabbitMQ, wire: Wire, tmp_path: Path, how: str
) -> None:
    with Spooled(tmp_path, wire.port, {"max_bytes": "1MiB"}, max_message_size="64KiB") as spooled:
        with spooled.listener(confirms=False) as publisher:
            wire.cut()
            spooled.away()
            publish(publisher, 0, 1000)
            wait_for(lambda: _kept(spooled) == 1000, "all are in the spool or held")
            assert spooled.spool()["full"]
            if how == "the sidecar stops":
                assert spooled.sidecar.terminate() == 0
        if how == "the sidecar stops":
            spooled.start()
            assert spooled.spool()["messages"] == 1000
        wire.mend()
        arrived(rabbitmq, 1000)
        assert not spooled.errors()


def _kept(spooled: Spooled) -> int:
    view = spooled.view()
    return int(view["held"]["messages"] + view["spool"]["messages"])
