"""What the admin API, the metrics and the command line see of a running sidecar. The agent implements it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from sidecar.amqp.views.protocols import AmqpView
from sidecar.config.model import Config, Upstream
from sidecar.core.stats import ListenerStats
from sidecar.endpoints.endpoint import Endpoint
from sidecar.registry.api import Registry
from sidecar.resilience.breaker import CircuitBreaker

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from sidecar.core.health import Health
    from sidecar.endpoints.names import Name


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
    def names(self) -> Sequence[Name]:
        """Host names of which endpoints come."""
        ...

    @property
    def problem(self) -> str:
        """What is wrong with its host names, where one has no address; empty when nothing is."""
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
    def waiting_for(self) -> str:
        """What another process has in use, so that this one does not serve yet; empty: nothing."""
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

    @property
    def lookups(self) -> Mapping[str, int]:
        """Lookups of host names since the start, by what came of them: ``ok``, ``missing`` (there is no such name) or
        ``failed``."""
        ...

    def families(self) -> Iterable[Metric]:
        """Prometheus families that protocols contribute beside those that all have."""
        ...

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
