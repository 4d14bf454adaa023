"""Stand-ins for what a filter sees of an exchange."""

from __future__ import annotations

import random
from typing import Any

from sidecar.config.model import Limits
from sidecar.core.instance import Instance
from sidecar.core.stats import ListenerStats
from sidecar.core.trace import Trace, trace_of
from sidecar.endpoints import balancers
from sidecar.endpoints.cluster import Cluster
from sidecar.endpoints.endpoint import Endpoint
from sidecar.http.h1.head import RequestHead, ResponseHead, parse_request, parse_response
from support.clock import Clock


def request(text: str = "GET /x HTTP/1.1", *fields: str) -> RequestHead:
    """A parsed request head; ``host`` is added."""
    lines = [text, "host: t", *fields, "", ""]
    return parse_request("\r\n".join(lines).encode("latin-1"), Limits())


def answer(status: int, *fields: str) -> ResponseHead:
    """A parsed answer's head, of a sidecar."""
    lines = [f"HTTP/1.1 {status} x", *fields, "", ""]
    return parse_response("\r\n".join(lines).encode("latin-1"), Limits(), "GET", peer=True)


class FakeListener:
    """As much of a listener as filters read."""

    def __init__(self, clock: Clock, endpoints: int = 1, protocol: str = "http") -> None:
        self.name = "up"
        self.clock = clock
        self.draining = False
        self.stats = ListenerStats("outbound", "up", protocol)
        rng = random.Random(1)
        self.cluster = Cluster("up", balancers.create("round_robin", rng), clock, rng)
        self.cluster.update(Instance(host="10.0.0.1", port=port) for port in range(1, endpoints + 1))


class FakeExchange:
    """As much of an exchange as filters read and write."""

    def __init__(self, listener: FakeListener, head: RequestHead | None = None, client_ip: str = "10.1.1.1") -> None:
        self.listener = listener
        self.method = ""
        if head is not None:
            self.head = head
            self.method = head.method
        self.client_ip = client_ip
        self.started = listener.clock()
        self.deadline = self.started + 30.0
        self.attempts = 0
        self.endpoint: Endpoint | None = None
        self.tried: tuple[Endpoint, ...] = ()
        self.replayable = True
        self.state: list[Any] = [None]
        self.request_id = ""
        self._trace: Trace | None = None
        self.status = 0
        self.error = ""
        self.bytes_in = 0
        self.bytes_out = 0
        self.grants = 0

    @property
    def trace(self) -> Any:
        """What the tracing filter set, else what the request goes on with."""
        return self._trace or (trace_of(self.head) if hasattr(self, "head") else None)

    @trace.setter
    def trace(self, trace: Trace | None) -> None:
        self._trace = trace

    def try_at(self, number: int = 0) -> Endpoint:
        """A try at that endpoint begins."""
        self.attempts += 1
        if self.endpoint is not None:
            self.tried += (self.endpoint,)
        self.endpoint = self.listener.cluster.endpoints[number]
        return self.endpoint

    def grant(self) -> None:
        """What an exchange does when its turn comes."""
        self.grants += 1
