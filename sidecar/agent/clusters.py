"""An upstream of a running sidecar."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sidecar.agent import balancing, rotation
from sidecar.agent.canary_weights import hold, key_of, split_of
from sidecar.config.traffic import StaticEndpoint, Upstream
from sidecar.core.address import Address
from sidecar.core.instance import Instance
from sidecar.core.stats import ListenerStats
from sidecar.endpoints import loops
from sidecar.endpoints.active_checks import ActiveChecks, EndpointCheck
from sidecar.endpoints.balancers.balancer import Balancer
from sidecar.endpoints.endpoint import Endpoint
from sidecar.endpoints.loaded_models import LoadedModels
from sidecar.endpoints.names import Expansion, Name, Names
from sidecar.endpoints.subsets import Subset
from sidecar.exchange.listener import Listener
from sidecar.registry.api import Registry
from sidecar.resilience.breaker import CircuitBreaker

if TYPE_CHECKING:
    from sidecar.agent.canary import Canary
    from sidecar.amqp.views.protocols import AmqpView
    from sidecar.redis.master import MasterWatch

logger = logging.getLogger("sidecar.upstreams")


def connect_breakers(upstreams: Mapping[str, RunningUpstream]) -> None:
    """Tell AMQP ports whose open breakers keep deliveries back (``amqp.pause_on``)."""

    def breakers_of(names: Sequence[str]) -> Sequence[CircuitBreaker]:
        return [breaker for name in names if name in upstreams for breaker in upstreams[name].breakers]

    for upstream in upstreams.values():
        amqp = upstream.config.amqp
        if amqp is not None:
            upstream.listener.follow_breakers(functools.partial(breakers_of, amqp.pause_on))


def _fixed(it: StaticEndpoint) -> Instance:
    return Instance(
        host=it.address.host, port=it.address.port, weight=it.weight, sidecar=it.sidecar, tags=it.tags, meta=it.meta
    )


class RunningUpstream:
    """Its configuration, its listener, and the watch that feeds it. ``outbound`` gives the addresses at which the
    sidecar listens for its app: endpoints there are refused."""

    def __init__(
        self,
        config: Upstream,
        listener: Listener,
        names: Names,
        outbound: Callable[[], Iterable[Address]] = tuple,
        registry_url: str = "",
        by: str = "",
    ) -> None:
        self.config = config
        self.listener = listener
        self._outbound = outbound
        self._registry_url = registry_url
        self._by = by
        #: What is tried there, step by step.
        self.canary: Canary | None = None
        hold(listener, config)
        self._registry: Registry | None = None
        #: Called once it is known where the endpoints are, or that there are none.
        self.on_known: Callable[[], None] | None = None
        listener.cluster.source = self._source
        self._instances: tuple[Instance, ...] | None = None
        self._loops: list[str] = []
        self._unwatch: list[Callable[[], None]] = []
        #: By service, what is found of it; empty: of its own.
        self._of_services: dict[str, tuple[Instance, ...]] = {}
        self._master: MasterWatch | None = None
        self._names = names
        self._checks: ActiveChecks | None = None
        self._models: LoadedModels | None = None
        self._expansion = Expansion(names, f"upstream {config.name}", self._found)

    @property
    def stats(self) -> ListenerStats:
        return self.listener.stats

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        self.listener.cluster.refresh()
        return self.listener.cluster.endpoints

    @property
    def balancer(self) -> Balancer:
        return self.listener.cluster.balancer

    def balancer_of(self, endpoint: Endpoint) -> Balancer:
        """The one that chooses it: of its subset, if it is in one."""
        subsets = self.listener.cluster.subsets
        return self.balancer if subsets is None else subsets.of(endpoint).balancer

    @property
    def ejections(self) -> Mapping[str, int]:
        return self.listener.cluster.ejections

    @property
    def subsets(self) -> Sequence[tuple[Subset, int, float]]:
        """Each with its weight, and the part of the requests that it gets: of those that no route is for."""
        subsets = self.listener.cluster.subsets
        if subsets is None:
            return ()
        found = split_of(self.listener)
        if found is None:
            return [(it, 0, 0.0) for it in subsets.by_name.values()]
        split = found.split
        weights, usable = split.weights, subsets.usable
        return [(it, weights.get(name, 0), split.part(name, usable)) for name, it in subsets.by_name.items()]

    @property
    def names(self) -> Sequence[Name]:
        return self._expansion.names

    @property
    def problem(self) -> str:
        return self._expansion.problem

    @property
    def master_problem(self) -> str:
        """What is wrong with the master that sentinels tell; empty if nothing is, or none is followed."""
        return self._master.trouble if self._master is not None else ""

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
        self._stop_watching()
        self._registry = registry
        discover = self.config.discover
        if discover is not None and discover.sentinel:
            self._follow_master(discover.sentinel, discover.at)
        elif discover is not None:
            assert registry is not None, "the configuration makes sure that there is a registry to discover in"
            self._unwatch.append(registry.watch(discover.service, discover.tag, functools.partial(self._gather, "")))
        else:
            self._gather("", tuple(_fixed(it) for it in self.config.endpoints))
        others = balancing.others(self.config)
        before = self._of_services
        self._of_services = {service: before.get(service, ()) for service in ("", *others)}
        if before.keys() - self._of_services.keys():
            self._expand()
        for service in others:
            assert registry is not None, "likewise"
            self._unwatch.append(registry.watch(service, "", functools.partial(self._gather, service)))
        self.ask_endpoints(rotation.checks(self.config))
        self.ask_models(balancing.asks_models(self.config))
        self.follow_canary()

    def follow_canary(self) -> None:
        """Have the canary of the configuration from now on, or none."""
        config, before = self.config, self.canary
        if config.canary is not None and before is not None and before.key == key_of(config):
            before.change(config)
            return
        if before is not None:
            before.close()
            self.canary = None
            if config.canary is None and (split := split_of(self.listener)) is not None:
                split.split.set(dict(split.config))
        if config.canary is not None:
            from sidecar.agent.canary import Canary  # with all that judges one

            self.canary = Canary(self.listener, config, self._by)
            self.canary.follow(self._registry)

    def _gather(self, service: str, instances: tuple[Instance, ...]) -> None:
        """What is known of one of the services whose instances are endpoints is another."""
        if service:
            instances = tuple(replace(it, service=service) for it in instances)
        self._of_services[service] = instances
        self._expand()

    def _expand(self) -> None:
        self._expansion.update(it for found in self._of_services.values() for it in found)

    def _follow_master(self, name: str, at: Sequence[Address]) -> None:
        from sidecar.redis.master import MasterWatch  # nobody else loads all of that
        from sidecar.tcp.relay import TcpListener

        listener = self.listener
        assert isinstance(listener, TcpListener), "the configuration makes sure of it"
        listener.exclusive = True
        watch = self._master = MasterWatch(
            name, at, self._names.resolver,
            lambda address: self._expansion.update((Instance(host=address.host, port=address.port),)),
        )  # fmt: skip

        def stop() -> None:
            watch.stop()
            listener.exclusive = False

        self._unwatch.append(stop)

    def ask_endpoints(self, check: EndpointCheck | None) -> None:
        """Have its endpoints checked so from now on; None: not at all."""
        before = self._checks.check if self._checks is not None else None
        if check == before:
            return
        if self._checks is not None:
            self._checks.stop()
            self._checks = None
        if check is None:
            self.listener.cluster.unchecked()
        else:
            if before is not None and (before.postgres is None) != (check.postgres is None):
                self.listener.cluster.unchecked()  # what was found is about something else
            self._checks = ActiveChecks(self.listener.cluster, check)
            self._checks.on_recovery = self._recovered
            self._checks.on_fall = self._leave_others
            self._checks.start()

    def ask_models(self, wanted: bool) -> None:
        """Have its endpoints asked for the models that they have loaded, or not."""
        if wanted and self._models is None:
            self._models = LoadedModels(self.listener.cluster)
            self._models.start()
        elif not wanted and self._models is not None:
            self._models.stop()
            self._models = None

    def _recovered(self) -> None:
        self._leave_others()
        self._ask_breakers("an endpoint passes its checks again")
        if self.on_known is not None:
            self.on_known()

    def _leave_others(self) -> None:
        """Where one endpoint alone is the right one, and it is known, no connection stays with another."""
        cluster = self.listener.cluster
        if cluster.unproven and not all(endpoint.down for endpoint in cluster.endpoints):
            for endpoint in cluster.endpoints:
                if endpoint.down:
                    self.listener.endpoint_removed(endpoint)

    def _source(self) -> dict[str, Any]:
        """Where the endpoints come from, and how old that is."""
        discover, registry = self.config.discover, self._registry
        if discover is not None and discover.sentinel and self._master is not None:
            at, watch = [str(address) for address in discover.at], self._master
            return {"from": "sentinel", "master": watch.name, "at": at, "up": watch.up, "problem": watch.trouble}
        if discover is None or registry is None:
            return {"from": "endpoints"}
        found: dict[str, Any] = {"from": "discover", "service": discover.service, "registry": self._registry_url}
        if discover.tag:
            found["tag"] = discover.tag
        return found | {"up": registry.up, "age_ms": round(registry.age * 1000)}

    def listeners_changed(self) -> None:
        """The sidecar listens somewhere else than before."""
        if self._instances is not None:
            self._found(self._instances)

    def leave(self) -> None:
        """Stop following, and asking endpoints."""
        self._stop_watching()
        if self.canary is not None:
            self.canary.close()
        if self._checks is not None:
            self._checks.stop()
        self.ask_models(False)
        self._expansion.close()

    def _stop_watching(self) -> None:
        for unwatch in self._unwatch:
            unwatch()
        self._unwatch = []
        self._master = None

    def _found(self, instances: tuple[Instance, ...]) -> None:
        self._instances = instances
        good, looped = loops.apart(instances, self._outbound())
        addresses = [str(Address(instance.host, instance.port)) for instance in looped]
        if addresses != self._loops:
            self._loops = addresses
            if addresses:
                logger.warning(
                    "upstream %s: %s refused, as this sidecar itself listens there for its app",
                    self.config.name, ", ".join(addresses),
                )  # fmt: skip
        cluster = self.listener.cluster
        known = {(endpoint.host, endpoint.port) for endpoint in cluster.endpoints}
        cluster.problem = self._expansion.problem
        cluster.cause = self._expansion.cause
        cluster.update(good)
        if any((endpoint.host, endpoint.port) not in known for endpoint in cluster.endpoints):
            self._ask_breakers("an instance has come")
        if self.on_known is not None and (good or not self._expansion.pending) and not (good and cluster.unproven):
            self.on_known()

    def _ask_breakers(self, why: str) -> None:
        """The failures that have opened them were before this, or those of others."""
        for breaker in self.listener.breakers:
            breaker.ask(why)
