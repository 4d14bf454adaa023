"""Several brokers behind one AMQP port, of which the one that is in use dies.

Here these are two ways to one broker, each of which can be cut. ``SIDECAR_SOAK=1`` has a cluster of three real ones, a
quorum queue, and kills the node on which the queue's leader is, three times: that takes minutes.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from support.confirmed import Confirmed
from support.processes import Sidecar, ending, wait_for
from support.rabbitmq import RabbitMQ, behind_sidecar
from support.spooled import Spooled, bodies, numbers
from support.wire import Wire

SOAK = os.environ.get("SIDECAR_SOAK") == "1"
QUORUM = {"x-queue-type": "quorum"}


def test_the_port_moves_on_when_a_broker_is_lost(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """With a spool nobody notices; without one, whoever connects again is at the other broker at once."""
    queue = "brokers.one"
    rabbitmq.declare(queue, durable=True, arguments=QUORUM)
    with Wire(rabbitmq.port) as one, Wire(rabbitmq.port) as other:
        ports = (one.port, other.port)
        plain = Sidecar(tmp_path, behind_sidecar(*ports), "plain")
        with ending(plain), Spooled(tmp_path, ports) as spooled:
            publisher = spooled.publisher("aio_pika", queue, 100, 100_000, "quorum")
            relayed = Confirmed(plain.ready().port("rabbitmq"), queue, window=5, first=1_000_000)
            try:
                for wire in (one, other, one):
                    relayed.run(0.3)
                    wire.cut()
                    relayed.run(0.3)  # if it was connected there, this ends at once
                    relayed.run(0.3)
                    spooled.attached()
                    wire.mend()
                result = publisher.result(0)
            finally:
                publisher.close()
            assert result["error"] is None, result
            spooled.empty()
            sent = set(range(result["published"]))
            found = set(numbers(bodies(rabbitmq, queue, result["published"] + len(relayed.acked))))
            assert sent - found == set(), "what was published with a spool"
            assert relayed.acked - found == set(), "what was acknowledged without one"
            assert relayed.connections >= 4
    rabbitmq.delete(queue)


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[RabbitMQ]]:
    """Three nodes."""
    with tempfile.TemporaryDirectory(prefix="rabbitmq-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        first = stack.enter_context(RabbitMQ(Path(name) / "0"))
        nodes = [first, *(stack.enter_context(RabbitMQ(Path(name) / str(n), beside=first)) for n in (1, 2))]
        for node in nodes:
            node.ready()
        for node in nodes[1:]:
            node.join(first)
        yield nodes


def leader(nodes: list[RabbitMQ], queue: str) -> RabbitMQ | None:
    """The node on which it is; None while there is none."""
    (asked, *_) = (node for node in nodes if node.popen.poll() is None)
    name = asked.leader(queue)
    return next((node for node in nodes if node.node == name), None)


def _led_by_another(nodes: list[RabbitMQ], queue: str, node: RabbitMQ) -> bool:
    return leader(nodes, queue) not in (None, node)


@pytest.mark.skipif(not SOAK, reason="three brokers take minutes: set SIDECAR_SOAK=1")
def test_the_leader_of_a_quorum_queue_is_killed(cluster: list[RabbitMQ], tmp_path: Path) -> None:
    queue = "brokers.three"
    cluster[0].declare(queue, durable=True, arguments=QUORUM)
    ports = [node.port for node in cluster]
    plain = Sidecar(tmp_path, behind_sidecar(*ports), "plain")
    with ending(plain), Spooled(tmp_path, ports) as spooled:
        without = {
            "through a port without a spool": Confirmed(plain.ready().port("rabbitmq"), queue, 20, first=1_000_000),
            "without a sidecar": Confirmed(ports, queue, 20, first=10_000_000),
        }
        stop = threading.Event()

        def again(client: Confirmed) -> None:
            while not stop.is_set():
                client.run(60)

        threads = [threading.Thread(target=again, args=(it,), daemon=True) for it in without.values()]
        publisher = spooled.publisher("aio_pika", queue, 500, 1_000_000, "quorum")
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                time.sleep(5)
                node = wait_for(lambda: leader(cluster, queue), "a leader")
                node.kill()
                killed = time.monotonic()
                wait_for(partial(_led_by_another, cluster, queue, node), "another node leads")
                print(f"{node.node} killed; another one leads after {time.monotonic() - killed:.2f} s")
                time.sleep(5)
                node.start()
                node.ready()
                spooled.attached()
            result = publisher.result(0)
        finally:
            stop.set()
            publisher.close()
            for thread in threads:
                thread.join(70)
        assert result["error"] is None, result
        spooled.empty(120)
        acked = sum(len(it.acked) for it in without.values())
        found = numbers(bodies(cluster[0], queue, result["published"] + acked, 120))
        lost = set(range(result["published"])) - set(found)
        print(
            f"through a port with a spool: {result['published']} published, {len(lost)} lost, the longest confirm took "
            f"{result['longest']:.2f} s"
        )
        for name, it in without.items():
            print(
                f"{name}: {len(it.acked)} acknowledged, {len(it.acked - set(found))} lost, "
                f"{it.connections} connections, at most {it.longest:.2f} s without an acknowledgement"
            )
            lost |= it.acked - set(found)
        print(f"{len(found) - len(set(found))} came twice")
        assert lost == set()
        assert not spooled.errors()
