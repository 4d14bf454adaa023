"""One address that traffic can be sent to, with what the data plane knows about it."""

from __future__ import annotations

from typing import NamedTuple

from sidecar.endpoints.load import Load


class LastError(NamedTuple):
    """How the last try at an endpoint that failed did so: Unix time, a word and a bounded text. The word is one of
    :mod:`sidecar.net.causes`, or ``status`` (its app answered 5xx), or ``peer`` (its sidecar did, in place of the
    app)."""

    at: float
    kind: str
    text: str


class Endpoint:
    """An address of an upstream. The object lives as long as its address stays in the set, whatever else about the
    instance changes, so counts and pooled connections survive updates.

    ``state`` is ``healthy`` or ``warning``; ``active`` counts exchanges (TCP: connections) under way;
    ``ejected_until`` is the loop time until which failures keep it out of the rotation (0: it is in). ``hostname`` is
    the name that the address was found for, if there was one; ``gone``: it has left the set; ``sidecar``: another one
    stands there, as the configuration or the registry says; ``admin``: the port of its admin API there (0: not known).
    """

    __slots__ = (
        "active", "admin", "current", "ejected_until", "ejections", "failed", "failures", "gone", "host", "hostname",
        "id", "last_error", "load", "port", "seconds", "sidecar", "state", "tries", "weight",
    )  # fmt: skip

    def __init__(
        self,
        host: str,
        port: int,
        weight: int = 1,
        state: str = "healthy",
        id: str = "",
        hostname: str = "",
        sidecar: bool = False,
        admin: int = 0,
    ) -> None:
        self.host = host
        self.port = port
        self.weight = weight
        self.state = state
        self.id = id
        self.hostname = hostname
        self.sidecar = sidecar
        self.admin = admin
        self.gone = False
        self.active = 0
        #: In all: tries that were sent there, seconds that those took which are over, and those that it failed.
        self.tries = 0
        self.seconds = 0.0
        self.failed = 0
        #: Failed tries in a row.
        self.failures = 0
        #: Ejections in a row, the exponent of the next one's length.
        self.ejections = 0
        self.ejected_until = 0.0
        #: It stays when later tries go well: it says when it was.
        self.last_error: LastError | None = None
        #: Scratch value of the smooth weighted balancer.
        self.current = 0
        #: For balancers that go by it.
        self.load = Load()

    @property
    def address(self) -> str:
        """``host:port``, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def where(self) -> str:
        """Its address, for people: with the name that it was found for."""
        return f"{self.hostname} ({self.address})" if self.hostname else self.address

    def __repr__(self) -> str:
        return f"Endpoint({self.address}, weight={self.weight}, state={self.state}, active={self.active})"
