"""A publisher that knows which of its messages were acknowledged, whatever becomes of its connections."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from pamqp import commands

from support.amqp_clients.raw import METHOD, RawClient

PERSISTENT = commands.Basic.Properties(delivery_mode=2)


class Confirmed:
    """Publishes numbers in confirm mode as fast as they are confirmed, ``window`` at once, over one connection after
    the other, each to the next of ``ports``, and keeps those that were confirmed."""

    def __init__(self, ports: int | Sequence[int], queue: str, window: int = 200, first: int = 0) -> None:
        self._ports = itertools.cycle([ports] if isinstance(ports, int) else ports)
        self.queue = queue
        self.window = window
        self.acked: set[int] = set()
        self.number = first
        #: Connections that it had, and the longest time without an acknowledgement.
        self.connections = 0
        self.longest = 0.0
        self._last = 0.0

    def run(self, seconds: float) -> None:
        """For that long, or until the connection ends."""
        until = time.monotonic() + seconds
        client = self._connect()
        if client is None:
            return
        self.connections += 1
        sent: dict[int, int] = {}
        tag = 0
        try:
            with client:
                while time.monotonic() < until:
                    while len(sent) < self.window:
                        tag += 1
                        sent[tag] = self.number
                        client.publish(1, "", self.queue, str(self.number).encode(), PERSISTENT)
                        self.number += 1
                    self._read(client, sent)
        except (OSError, EOFError):
            pass

    def _connect(self) -> RawClient | None:
        try:
            return RawClient(next(self._ports), timeout=2).open_channel().confirms()
        except (OSError, EOFError, AssertionError):
            return None

    def _read(self, client: RawClient, sent: dict[int, int]) -> None:
        """What has come, if something does."""
        found = client.read(0.02)
        while found is not None:
            if found.kind == METHOD:
                method = found.method
                if isinstance(method, commands.Connection.Close):
                    raise EOFError(method.reply_text)
                assert isinstance(method, (commands.Basic.Ack, commands.Basic.Nack)), method
                tag = method.delivery_tag or 0
                for each in [each for each in sent if each <= tag] if method.multiple else [tag]:
                    number = sent.pop(each)
                    if isinstance(method, commands.Basic.Ack):
                        self._acknowledged(number)
            found = client.read(0)

    def _acknowledged(self, number: int) -> None:
        now = time.monotonic()
        self.longest = max(self.longest, now - (self._last or now))
        self._last = now
        self.acked.add(number)
