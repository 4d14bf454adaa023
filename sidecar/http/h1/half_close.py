"""Finds out what has become of a client that has finished sending."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sidecar.exchange.phases import ANSWERING
from sidecar.http.h1.lines import CONTINUE
from sidecar.net.sockets import broken

if TYPE_CHECKING:
    from sidecar.http.exchange import HttpExchange
    from sidecar.http.h1.server import Downstream

#: When a client has finished sending, how soon to find out whether it still reads; then twice as late each time.
PROBE_SECONDS: Final = 0.1
#: How soon after it was asked to look for its host's reset: on most networks that is back by then. Else the next time
#: finds it.
LOOK_SECONDS: Final = 0.05


class HalfClose:
    """Has the client only finished sending (a half-close, legal), or is it gone altogether? Both look the same until
    something is sent to it: a 100 (Continue), which every HTTP/1.1 client ignores when it did not ask for one (RFC 9110
    §15.2.1). If the client is gone, its host answers with a reset. HTTP/1.0 knows no 100; there, only a reset of the
    client's own accord can be seen."""

    __slots__ = ("_client", "_delay", "_timer")

    def __init__(self, client: Downstream) -> None:
        self._client = client
        self._delay = PROBE_SECONDS
        self._timer: asyncio.TimerHandle = client.listener.loop.call_later(PROBE_SECONDS, self._ask)

    def cancel(self) -> None:
        """It does not matter any more."""
        self._timer.cancel()

    def _ask(self) -> None:
        x = self._there()
        if x is not None:
            client = self._client
            if x.version:
                client.transport.write(CONTINUE)
            self._timer = client.listener.loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        if self._there() is not None:
            self._timer = self._client.listener.loop.call_later(self._delay - LOOK_SECONDS, self._ask)
            self._delay *= 2

    def _there(self) -> HttpExchange | None:
        """Return the exchange whose answer the client waits for. None: that has begun, or the client has left and it
        is ended."""
        client = self._client
        x = client.exchange
        if x is None or x.phase >= ANSWERING:
            client.probe = None
            return None
        if broken(client.transport):
            client.probe = None
            x.client_gone()
            return None
        return x
