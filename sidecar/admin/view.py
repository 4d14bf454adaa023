"""What the admin API, the metrics and the command line see of a running sidecar. The agent implements it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sidecar.amqp.stats import AmqpStats
from sidecar.config.model import Config, Upstream
from sidecar.registry.api import Registry
from sidecar.resilience.breaker import CircuitBreaker
from sidecar.telemetry.stats import ListenerStats
from sidecar.upstreams.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Health:
    """``status`` is ``healthy``, ``warning`` or ``unhealthy``; ``output`` a line that says why."""

    status: str
    output: str


@dataclass(frozen=True, slots=True)
class SessionView:
    """One client's connection to an AMQP port. ``client`` is its address, ``product`` what it calls itself, ``since``
    how long ago it came, in seconds; ``endpoint`` is empty until there is one. ``held`` counts its publishes that wait,
    ``unacked`` the deliveries that it has not settled, ``stalled`` those kept back from it; ``blocked``: it was told to
    publish nothing for now."""

    client: str
    product: str
    user: str
    vhost: str
    endpoint: str
    since: float
    channels: int
    consumers: int
    unacked: int
    held: int
    blocked: bool
    stalled: int


class AmqpView(Protocol):
    """What is particular to an AMQP upstream."""

    @property
    def stats(self) -> AmqpStats: ...

    @property
    def held_bytes(self) -> int:
        """Of all messages held now."""
        ...

    def holding(self) -> list[tuple[str, int]]:
        """What messages wait for, and how many each."""
        ...

    def sessions(self) -> list[SessionView]:
        """All clients' connections."""
        ...


class UpstreamView(Protocol):
    """One upstream of the running sidecar."""

    @property
    def config(self) -> Upstream: ...

    @property
    def stats(self) -> ListenerStats: ...

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """All known ones, ejected ones too."""
        ...

    @property
    def breakers(self) -> Sequence[CircuitBreaker]:
        """The upstream's breaker first, then those of routes that have their own; empty when switched off."""
        ...

    @property
    def amqp(self) -> AmqpView | None:
        """None: the upstream speaks something else."""
        ...


class Running(Protocol):
    """A running sidecar."""

    config: Config
    #: Monotonic time of the start, seconds.
    started: float

    @property
    def phase(self) -> str:
        """``starting``, ``ready``, ``draining`` or ``stopped``."""
        ...

    @property
    def registry(self) -> Registry | None: ...

    @property
    def upstreams(self) -> Mapping[str, UpstreamView]: ...

    @property
    def stats(self) -> Sequence[ListenerStats]:
        """One per listener, inbound first."""
        ...

    @property
    def log_lines_dropped(self) -> int: ...

    @property
    def spans_dropped(self) -> int: ...

    def app_health(self) -> Health:
        """The last result of the app's own check."""
        ...

    async def check_app(self) -> Health:
        """Check the app now."""
        ...

    async def probe(self, upstream: str) -> Health:
        """Connect to one of the upstream's endpoints now and say how that went ("deep" health)."""
        ...

    async def reload(self) -> Sequence[str]:
        """Read the configuration file again and apply it; what changed, a line each. Raises
        :class:`sidecar.config.errors.ConfigError` and changes nothing when the file is not usable."""
        ...

    def drain(self) -> None:
        """Begin to drain, as SIGTERM does."""
        ...
