"""An upstream of a running sidecar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sidecar.config.model import Upstream
from sidecar.proxy.listener import Listener
from sidecar.registry.api import Instance, Registry
from sidecar.resilience.breaker import CircuitBreaker
from sidecar.telemetry.stats import ListenerStats
from sidecar.upstreams.endpoint import Endpoint

if TYPE_CHECKING:
    from sidecar.admin.view import AmqpView


class RunningUpstream:
    """Its configuration, its listener, and the watch that feeds it. Implements
    :class:`sidecar.admin.view.UpstreamView`."""

    def __init__(self, config: Upstream, listener: Listener) -> None:
        self.config = config
        self.listener = listener
        self._unwatch: Callable[[], None] | None = None

    @property
    def stats(self) -> ListenerStats:
        return self.listener.stats

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        self.listener.cluster.refresh()
        return self.listener.cluster.endpoints

    @property
    def breakers(self) -> Sequence[CircuitBreaker]:
        return self.listener.breakers

    @property
    def amqp(self) -> AmqpView | None:
        # Only an AMQP port's listener has this; asking for its class would load all of that for everybody.
        view: AmqpView | None = getattr(self.listener, "amqp_view", None)
        return view

    def follow(self, registry: Registry | None) -> None:
        """Get endpoints from where the configuration says, from now on. Those it had stay until there are others."""
        self.leave()
        cluster = self.listener.cluster
        if self.config.discover is not None:
            assert registry is not None, "the configuration makes sure that there is a registry to discover in"
            self._unwatch = registry.watch(self.config.discover, cluster.update)
        else:
            cluster.update(
                Instance(host=e.address.host, port=e.address.port, weight=e.weight) for e in self.config.endpoints
            )

    def leave(self) -> None:
        """Stop following."""
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
