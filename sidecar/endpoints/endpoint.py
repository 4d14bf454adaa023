"""One address that traffic can be sent to, with what the data plane knows about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.core.instance import Instance
from sidecar.endpoints.load import Load
from sidecar.resilience.outcomes import Outcomes

if TYPE_CHECKING:
    from sidecar.endpoints.balancers.balancer import Balancer

#: What is told beside most instances.
_NOTHING: Final[Mapping[str, str]] = {}
_NO_MODELS: Final[frozenset[str]] = frozenset()


class LastError(NamedTuple):
    """How the last try at an endpoint that failed did so: Unix time, a word and a bounded text. The word is one of
    :mod:`sidecar.net.causes`, or ``status`` (its app answered 5xx), or ``peer`` (its sidecar did, in place of the
    app)."""

    at: float
    kind: str
    text: str


class Checked(NamedTuple):
    """What the active checks of an endpoint say: the last result (``healthy``, ``warning`` or ``unhealthy``), a line
    about it, its Unix time; and the results of its kind in a row (a warning is a good one)."""

    status: str
    output: str
    at: float
    row: int


class Endpoint:
    """An address of an upstream. The object lives as long as its address stays in the set, whatever else about the
    instance changes, so counts and pooled connections survive updates.

    ``state`` is ``healthy``, ``warning`` or, as active checks alone can say, ``unhealthy``; ``active`` counts exchanges
    (TCP: connections) under way, from :meth:`begin` to :meth:`end`; ``ejected_until`` is the loop time until which what
    came of its tries keeps it out of the rotation (0: it is in). ``hostname`` is the name that the address was found
    for, if there was one; ``gone``: it has left the set; ``sidecar``: another one stands there, as the configuration or
    the registry says; ``admin``: the port of its admin API there (0: not known). ``subset`` is the name of the one that
    it has fallen into, or empty; ``service``, ``tags`` and ``meta``, as its registry has them, say which.
    """

    __slots__ = (
        "active", "admin", "checked", "current", "down", "ejected_for", "ejected_until", "ejection", "ejections",
        "failed", "failures", "followers", "gone", "host", "hostname", "id", "last_error", "load", "meta", "models",
        "outcomes", "port", "registered", "relapses", "returned", "seconds", "service", "share", "sidecar",
        "slow_since", "state", "subset", "tags", "trial", "tries", "weight",
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
        #: Its state as far as it is known, and what the registry says of it.
        self.state = state
        self.registered = state
        self.id = id
        self.hostname = hostname
        self.sidecar = sidecar
        self.admin = admin
        self.service = ""
        self.tags: Sequence[str] = ()
        self.meta: Mapping[str, str] = _NOTHING
        self.subset = ""
        self.gone = False
        self.active = 0
        #: Balancers that are told when that changes.
        self.followers: tuple[Balancer, ...] = ()
        #: In all: tries that were sent there, seconds that those took which are over, and those that it failed.
        self.tries = 0
        self.seconds = 0.0
        self.failed = 0
        #: Failed tries in a row.
        self.failures = 0
        #: Short ejections in a row, on which the length of the next one depends; a try that goes well ends the row.
        self.ejections = 0
        #: Long ones, less one for each time that it stayed in the rotation; and when it came back from the last.
        self.relapses = 0
        self.returned = 0.0
        self.ejected_until = 0.0
        #: Why it is ejected, or was the last time: the reason, and in words.
        self.ejected_for = ""
        self.ejection = ""
        #: What came of its tries, where that is watched; and tries that are left until it is judged after an ejection.
        self.outcomes: Outcomes | None = None
        self.trial = 0
        #: The part of its traffic that it gets; and since when it has been starting slowly (inf: it does not).
        self.share = 1.0
        self.slow_since = inf
        #: What active checks say of it, if there are any; and whether they keep it out of the rotation.
        self.checked: Checked | None = None
        self.down = False
        #: It stays when later tries go well: it says when it was.
        self.last_error: LastError | None = None
        #: What the smooth weighted balancer has it at while it keeps that nowhere else.
        self.current = 0
        #: For balancers that go by it: its load, and the language models that it has loaded.
        self.load = Load()
        self.models: frozenset[str] = _NO_MODELS

    def take(self, instance: Instance) -> None:
        """Go by what is now known of the instance there."""
        self.weight = instance.weight
        self.registered = instance.state
        self.state = state_of(self)
        self.id = instance.id
        self.hostname = instance.hostname
        self.sidecar = instance.sidecar
        self.admin = instance.admin
        self.service = instance.service
        self.tags = instance.tags
        self.meta = instance.meta

    def begin(self) -> None:
        """An exchange with it is under way from now on."""
        self.active += 1
        if self.followers:
            self.tell(1)

    def end(self) -> None:
        """One that had begun is over."""
        self.active -= 1
        if self.followers:
            self.tell(-1)

    def tell(self, by: int) -> None:
        """Tell its followers by how much :attr:`active` has changed."""
        for balancer in self.followers:
            balancer.moved(self, by)

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


def beside(endpoint: Endpoint, eligible: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Other addresses in the rotation of the name that this one was found for, in the order in which to try them when
    it is silent: the families in turn, the other one first (RFC 8305 §4). Empty when there was no name."""
    hostname = endpoint.hostname
    if not hostname:
        return ()
    others = [
        e for e in eligible
        if e is not endpoint and e.hostname == hostname and e.port == endpoint.port
    ]  # fmt: skip
    same = [e for e in others if (":" in e.host) == (":" in endpoint.host)]
    other = [e for e in others if e not in same]
    found: list[Endpoint] = []
    while other or same:
        if other:
            found.append(other.pop(0))
        if same:
            found.append(same.pop(0))
    return tuple(found)


def usable(endpoint: Endpoint) -> bool:
    """Whether nothing keeps it out of the rotation. A weight of 0 is how an instance in the warning state asks for no
    traffic."""
    return endpoint.weight > 0 and not endpoint.ejected_until and not endpoint.down


def state_of(endpoint: Endpoint) -> str:
    """What is known of it, by its registry and its checks: the worse of both."""
    if endpoint.down:
        return "unhealthy"
    checked = endpoint.checked
    return "warning" if checked is not None and checked.status == "warning" else endpoint.registered
