"""The broker is ended at random moments, in all ways, with its data kept or lost, while clients work."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from support.amqp_clients.raw import RawClient
from support.processes import wait_for
from support.rabbitmq import RabbitMQ
from support.restarts.clients import Consumer, Publisher
from support.restarts.ledger import Ledger, Target
from support.restarts.tap import Tap
from support.spooled import Spooled, bodies
from support.wire import Wire

#: Each to be reached through the default exchange and through a topic exchange.
QUEUES = {"durable": True, "acked": True, "exclusive": False, "auto": False}
KEPT = [
    Target(queue, exchange, f"{queue}.key" if exchange else queue, durable)
    for queue, durable in QUEUES.items()
    for exchange in ("", "restarts")
]
#: Nobody makes this queue again.
ORPHAN = Target("orphan", "", "orphan", durable=True, kept=False)

_LOGINS = ("guest", "guest"), ("writer", "secret")
#: The ways to end the broker, each as often as it is likely.
WAYS = ("app",) * 6 + ("kill",) * 3 + ("stop",)
#: Those that need no start of a virtual machine, which takes seconds.
QUICK_WAYS = ("app",)


def start_broker(folder: Path) -> RabbitMQ:
    """One whose users are there again when it has lost its data."""
    definitions = folder / "definitions.json"
    users = [{"name": name, "password": password, "tags": ""} for name, password in _LOGINS]
    rights = [{"user": name, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"} for name, _ in _LOGINS]
    definitions.write_text(json.dumps({"vhosts": [{"name": "/"}], "users": users, "permissions": rights}))
    return RabbitMQ(folder / "rabbitmq", settings=f'{{load_definitions, "{definitions}"}},')


class Soak:
    """``ways``: those in which the broker may end. ``rate``: messages a second of all publishers."""

    def __init__(
        self, folder: Path, broker: RabbitMQ, seed: int, ways: Sequence[str] = WAYS, rate: float = 150
    ) -> None:
        self.ways = ways
        self.broker = broker
        self.rng = random.Random(seed)
        self.tap = Tap()
        self.ledger = Ledger(self.tap, {target.name: target for target in (*KEPT, ORPHAN)})
        self.wire = Wire(broker.port, self.tap)
        self.wire.__enter__()
        self.away = False
        self.ends: dict[str, int] = {}
        self._orphan_there()
        self.spooled = Spooled(folder, self.wire.port)
        port, ledger = self.spooled.port, self.ledger
        self.consumers = [
            Consumer("takes durable", ledger, port, "durable", "durable.#", acks=False, durable=True),
            Consumer("acks durable", ledger, port, "acked", "acked.#", acks=True, durable=True),
            Consumer("takes exclusive", ledger, port, "exclusive", "exclusive.#", acks=False, exclusive=True),
            Consumer("acks auto-delete", ledger, port, "auto", "auto.#", acks=True, auto_delete=True),
        ]
        time.sleep(1)
        self.publishers = [
            Publisher("stays", ledger, port, self.targets, rate / 3, seed + 1),
            Publisher("writes", ledger, port, self.targets, rate / 3, seed + 2, user="writer", password="secret"),
            Publisher("comes and goes", ledger, port, self.targets, rate / 3, seed + 3, stays=2.0),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in (*self.publishers, *self.consumers):
            worker.ending = True
        self.spooled.sidecar.close()
        self.wire.__exit__()

    def targets(self) -> list[Target]:
        """Those that can be published to now. A message to a queue that is missing while the broker is there is dropped
        by the broker, which says nothing of the sidecar."""
        return [*KEPT, ORPHAN] if self.away else KEPT

    def _orphan_there(self) -> None:
        self.broker.declare(ORPHAN.queue, durable=True)
        self.tap.declared(ORPHAN.queue)

    # -- the broker

    def end_broker(self) -> None:
        """At a random moment, in a random way; it is back afterwards."""
        way = self.rng.choice(self.ways)
        forget = self.rng.random() < 0.5
        what = f"{way}, {'forgets' if forget else 'keeps'}"
        self.ends[what] = self.ends.get(what, 0) + 1
        time.sleep(self.rng.uniform(0, 4) if self.rng.random() < 0.8 else self.rng.uniform(0, 0.3))
        over = threading.Thread(target=self._note_end, args=(self._sentinel(), forget), daemon=True)
        over.start()
        if way == "app":
            self.broker.restart_app(forget=forget)
        else:
            if way == "kill":
                self.broker.kill()
            else:
                self.broker.stop()
            if forget:
                self.broker.forget()
            time.sleep(self.rng.choice((0, 0, 2)))
            self.broker.start()
            self.broker.ready()
        over.join(10)
        assert not over.is_alive(), "the broker has not ended"

    def _sentinel(self) -> RawClient:
        """A connection straight to the broker: it ends with it, before anybody can have another one."""
        return RawClient(self.broker.port)

    def _note_end(self, sentinel: RawClient, forget: bool) -> None:
        sentinel.sock.settimeout(120)
        with suppress(OSError, EOFError), sentinel:
            sentinel.sock.recv(1, socket.MSG_WAITALL)  # it has nothing to say but that it ends
        self.tap.over(forget)
        self.away = True
        time.sleep(1.2)
        self.away = False

    # -- the balance

    def settle(self) -> None:
        """Until all that was confirmed has arrived or is dead; then see that nothing is missing."""
        for worker in (*self.publishers, *self.consumers):
            worker.check()
        for publisher in self.publishers:
            publisher.paused = True
        for publisher in self.publishers:
            wait_for(publisher.is_quiet, f"{publisher.name} has its answers", 120)
        self.spooled.attached()
        self.spooled.empty(120)
        self._drain()
        letters = self._letters()
        self._orphan_there()
        for body in bodies(self.broker, ORPHAN.queue):
            self.ledger.consumes(body)
        self.ledger.balance(letters)
        for publisher in self.publishers:
            publisher.paused = False

    def _drain(self) -> None:
        """Wait until the consumers have all that is in their queues: two looks in a row find none."""
        quiet = 0
        before = -1
        while quiet < 3:
            left = sum(self.broker.depth(queue) for queue in QUEUES if queue != "exclusive")
            missing = self.ledger.missing()
            quiet = quiet + 1 if left == 0 and missing == before else 0
            before = missing
            time.sleep(0.3)

    def _letters(self) -> dict[bytes, str]:
        base = f"{self.spooled.sidecar.admin}/amqp/rabbitmq/dead-letters"
        with urllib.request.urlopen(f"{base}/export", timeout=60) as answer:
            found = [json.loads(line) for line in answer.read().splitlines()]
        self.spooled.post("dead-letters/drop")
        return {letter["body"]["content"].encode(): letter["reason"] for letter in found}

    def end(self) -> None:
        """Everybody leaves."""
        for worker in (*self.publishers, *self.consumers):
            worker.end()
