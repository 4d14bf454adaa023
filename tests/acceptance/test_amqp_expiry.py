"""What is of use for a moment only is not handed out late after an outage: Celery's remote control and its events,
whose queues say for how long they keep a message. The mailbox, consumer and producer are kombu's own, as those of a
worker and of Flower."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Self

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Consumer, Producer
from kombu.pidbox import Mailbox

from support.processes import wait_for
from support.rabbitmq import RabbitMQ
from support.spooled import Spooled, bodies
from support.wire import Wire

#: Seconds for which both queues keep a message: Celery has 300 and 10 (unused), and 5.
LIFE = 1.0
EVENTS = Exchange("expiry.events", type="topic")  # type: ignore[no-untyped-call]


def mailbox() -> Any:
    return Mailbox("expiry", type="fanout", queue_ttl=300.0, queue_expires=LIFE)  # type: ignore[no-untyped-call]


class Worker:
    """Obeys remote control, and listens to events; what it has got."""

    def __init__(self, port: int) -> None:
        self.commands: list[str] = []
        self.events: list[str] = []
        self._port = port
        self._ready = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._thread.join()

    def _run(self) -> None:
        with Connection(url(self._port)) as connection:  # type: ignore[no-untyped-call]
            channel = connection.channel()
            node = mailbox()(connection).Node("worker@here", channel=channel)
            for name in ("shutdown", "ping"):
                node.handlers[name] = lambda _, name=name: self.commands.append(name)
            life: Any = {"message_ttl": LIFE, "expires": 60.0}
            queue = Queue("expiry.here", EVENTS, "#", durable=False, auto_delete=True, **life)  # type: ignore[no-untyped-call]
            events = Consumer(channel, [queue], callbacks=[self._event], no_ack=True)  # type: ignore[no-untyped-call]
            with node.listen(callback=node.handle_message), events:
                self._ready.set()
                while not self._ending:
                    try:
                        connection.drain_events(timeout=0.1)
                    except TimeoutError:
                        pass

    def _event(self, body: str, message: object) -> None:
        self.events.append(body)


def url(port: int) -> str:
    return f"amqp://guest:guest@127.0.0.1:{port}//"


def test_remote_control_and_events_are_not_late_and_tasks_are(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    rabbitmq.declare("expiry.tasks", durable=True)
    with (
        Wire(rabbitmq.port) as wire,
        Spooled(tmp_path, wire.port) as spooled,
        Worker(spooled.port) as worker,
        Connection(url(spooled.port)) as connection,  # type: ignore[no-untyped-call]
    ):
        control = mailbox()(connection)
        producer: Any = Producer(connection.channel())  # type: ignore[no-untyped-call]

        def say(command: str, event: str) -> None:
            control.abcast(command)
            producer.publish(event, exchange=EVENTS, routing_key="task.sent", delivery_mode=1, declare=[EVENTS])

        def arrives(event: str) -> None:
            """Say it until it is heard: on a busy machine, a second may be over before it is handed out."""

            def heard() -> bool:
                say("ping", event)
                time.sleep(0.2)
                return len(worker.commands) > known and event in worker.events

            known = len(worker.commands)
            wait_for(heard, f"a command and {event!r} arrive")

        arrives("before")
        wire.cut()
        spooled.away()
        say("shutdown", "meanwhile")
        producer.publish("a task", exchange="", routing_key="expiry.tasks", delivery_mode=2)
        wait_for(lambda: spooled.spool()["messages"] == 3, "all are in the spool")
        time.sleep(LIFE + 0.1)
        wire.mend()
        spooled.attached(60)
        spooled.empty(60)
        arrives("after")
        assert set(worker.commands) == {"ping"}
        assert set(worker.events) == {"before", "after"}
        assert bodies(rabbitmq, "expiry.tasks", 1) == [b"a task"]
        assert spooled.letters() == []
        assert spooled.spool()["expired"] == 2
        assert not spooled.errors()
    rabbitmq.delete("expiry.tasks")
