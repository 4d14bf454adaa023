"""How long the phases of an exchange may take."""

from __future__ import annotations


class Times:
    """Seconds. ``connect`` to an endpoint; ``request`` until an answer's head, waiting and retries included; ``idle``
    is the longest silence, ``total`` the whole exchange, ``head`` what a client has for its request head; ``keepalive``
    is how long an unused connection to an endpoint is kept. 0: any time, of all but the first two."""

    __slots__ = ("connect", "head", "idle", "keepalive", "request", "total")

    def __init__(
        self, connect: float, request: float, idle: float, total: float, head: float, keepalive: float
    ) -> None:
        self.connect = connect
        self.request = request
        self.idle = idle
        self.total = total
        self.head = head
        self.keepalive = keepalive
