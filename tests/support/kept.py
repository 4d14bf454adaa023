"""An AMQP port with a spool, as :mod:`support.amqp` has one without: its disk is a list, and nothing is replayed."""

from __future__ import annotations

from typing import Any, cast

from sidecar.amqp.known import Known
from sidecar.amqp.listener import AmqpListener
from sidecar.amqp.spool.keeper import Keeper
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.config import model
from support.amqp import GREETING, FakeLoop, Peer, Stage, connection_open_ok, start, tune


class Disk:
    """In place of :class:`sidecar.amqp.spool.store.Spool`. What is put is there soon, or (``slow``) when :meth:`work`
    is called."""

    def __init__(self, loop: FakeLoop) -> None:
        self._loop = loop
        self.keys: dict[tuple[str, str], int] = {}
        self.messages: list[SpooledMessage] = []
        self.slow = False
        self.full = False
        self.problem = ""
        self._jobs: list[tuple[list[SpooledMessage], Any]] = []

    def put(self, messages: list[SpooledMessage], done: Any, urgent: bool = False) -> bool:
        if self.full:
            return False
        for message in messages:
            self.keys[message.key] = self.keys.get(message.key, 0) + 1
        self._jobs.append((messages, done))
        if not self.slow:
            self._loop.call_soon(self.work)
        return True

    def work(self, error: Any = None) -> None:
        """All that was put is on the disk now, or could not be."""
        jobs, self._jobs = self._jobs, []
        for messages, done in jobs:
            if error is None:
                for message in messages:
                    self.messages.append(message)
                    message.id = len(self.messages)
            done(messages, error)

    def bodies(self) -> list[bytes]:
        return [message.body for message in self.messages]

    def empty(self) -> None:
        """Everything was delivered."""
        self.messages.clear()
        self.keys.clear()


class Account:
    """Somebody who may open any vhost but "closed"."""

    user = "guest"

    def opens(self, vhost: str) -> bool:
        return vhost != "closed"


class Accounts:
    """Those that may come in without a broker: whoever has the password ``let in``."""

    def accepted(self, mechanism: str, response: bytes, vhost: str) -> None: ...

    def refused(self, mechanism: str, response: bytes) -> None: ...

    async def verify(self, mechanism: str, response: bytes) -> Account | None:
        return Account() if response.endswith(b"let in") else None


class Port:
    """In place of :class:`sidecar.amqp.spool.port.SpoolPort`."""

    def __init__(self, listener: AmqpListener, settings: model.AmqpSpool) -> None:
        self.disk = Disk(cast(FakeLoop, listener.loop))
        self.keeper = Keeper(settings, cast(Any, self.disk), listener.amqp_stats, listener.clock)
        self.known = Known(cast(Any, None))
        self.accounts = Accounts()
        self.missed = -1e9
        #: How often the broker was found again.
        self.found = 0

    def met(self, handshake: Any) -> None: ...

    def seen(self, handshake: Any) -> None: ...

    def broker_is_back(self) -> None:
        self.found += 1

    def look(self) -> None: ...


class KeptStage(Stage):
    """``settings`` are those of the spool, all else as for :class:`Stage`. Brokers can be lost, and found again."""

    def __init__(self, settings: dict[str, Any] | None = None, **others: Any) -> None:
        super().__init__(**others)
        self.port = Port(self.listener, model.AmqpSpool(path="/nowhere", **(settings or {})))
        self.listener.port = cast(Any, self.port)

    @property
    def disk(self) -> Disk:
        return self.port.disk

    def logged_in(self) -> Peer:
        """The broker's end of the next connection, once the client's login was accepted there; what has to be set up
        anew is said then."""
        self.advance(5)
        broker = self.broker()
        broker.gets(GREETING)
        broker.says(start())
        broker.heard()
        broker.says(tune())
        broker.heard()
        broker.says(connection_open_ok())
        return broker

    def back(self, *answers: bytes) -> Peer:
        """The same, when the broker says yes with these ``answers`` to all that is set up anew."""
        broker = self.logged_in()
        broker.heard()
        broker.says(*answers)
        assert not self.stats.detached
        return broker

    def counts(self) -> dict[str, int]:
        return super().counts() | {"detached": self.stats.detached}
