"""A running sidecar for tests of what looks at one: every answer is an attribute that a test sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from types import SimpleNamespace
from typing import Any, cast

from sidecar.admin.snapshots import UpstreamSnapshot
from sidecar.agent import snapshots
from sidecar.agent.canary import Canary
from sidecar.agent.changes import LastReload
from sidecar.agent.draining import AppsTurn
from sidecar.agent.faults import FaultBoard
from sidecar.agent.plan import Plan, plan
from sidecar.agent.redirection import Redirection
from sidecar.amqp.flow.stats import AmqpStats, ExchangeStats, QueueDepth
from sidecar.amqp.views.protocols import SessionView
from sidecar.config.agent import Admin, Drain
from sidecar.config.schema import Config
from sidecar.config.service import Service
from sidecar.config.traffic import Discover
from sidecar.core.address import Address
from sidecar.core.decisions import Decisions
from sidecar.core.health import Health
from sidecar.core.instance import Instance, OnChange
from sidecar.core.operations import Contribution
from sidecar.core.records import AccessLog
from sidecar.core.secret import Secret
from sidecar.core.stats import ListenerStats
from sidecar.endpoints.balancers.balancer import Balancer
from sidecar.endpoints.balancers.table import create
from sidecar.endpoints.endpoint import Endpoint
from sidecar.endpoints.names import Name
from sidecar.endpoints.subsets import Subset
from sidecar.exchange.listener import Listener
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.registry import Found, Registration, SharedValue, Workload
from sidecar.resilience import breaker
from sidecar.telemetry.loop_lag import LoopLag
from sidecar.why.ring import Ring
from support.clock import Clock
from support.fake_spool import FakeSpool
from support.ports import upstream_of

LOCAL = Admin(bind=Address("127.0.0.1", 0))


class FakeRegistry:
    """A registry of which only its state is looked at."""

    def __init__(self, up: bool = True, age: float = 0.0) -> None:
        self.up = up
        self.age = age

    def watch(self, discover: Discover, on_change: OnChange) -> Callable[[], None]:
        on_change((Instance(host="10.0.0.1", port=80),))
        return lambda: None

    async def answered(self) -> None: ...
    async def sidecars(self) -> Sequence[Instance]:
        return ()

    async def services(self) -> Mapping[str, frozenset[str]]:
        return {}

    def share(self, name: str, on_value: Callable[[Found], None]) -> SharedValue:
        raise NotImplementedError

    async def exchange(self, name: str, who: str, data: bytes | None) -> Mapping[str, Found]:
        return {}

    async def erase(self, name: str, notes: Mapping[str, object]) -> None: ...

    def enroll(self, workload: Workload) -> Registration:
        raise NotImplementedError

    def register(self) -> None: ...
    def set_health(self, status: str, output: str) -> None: ...
    def use_token(self, token: Secret) -> None: ...
    async def deregister(self) -> None: ...
    async def close(self) -> None: ...


class FakeAmqp:
    """What is particular to an AMQP upstream. Implements :class:`sidecar.amqp.views.protocols.AmqpView`."""

    def __init__(self) -> None:
        self.stats = AmqpStats()
        self.held_bytes = 0
        self.waiting: list[tuple[str, int]] = []
        self.clients: list[SessionView] = []
        self.spool: FakeSpool | None = None
        self.unkeyed: dict[str, int] = {}
        self.refusing: dict[str, str] = {}
        self.stalled = False

    def holding(self) -> list[tuple[str, int]]:
        return self.waiting

    def sessions(self) -> list[SessionView]:
        return self.clients

    def exchange(self, vhost: str, name: str, **counts: float) -> ExchangeStats:
        """An exchange's counters, set to these values."""
        stats = self.stats.exchange(vhost, name)
        for key, value in counts.items():
            setattr(stats, key, value)
        return stats

    def queue(self, name: str, depth: int = 0, full: bool = False, problem: str = "") -> QueueDepth:
        """A watched queue in /, with 10 as its high mark."""
        found = self.stats.queues["/", name] = QueueDepth("/", name, 10, 8)
        found.depth, found.full, found.problem = depth, full, problem
        found.consumers = 1 if depth >= 0 else -1
        return found

    def session(self, number: int, **more: Any) -> SessionView:
        """A client's connection; clients are numbered from 1."""
        values: dict[str, Any] = {
            "client": f"10.0.0.1:{number}", "product": "pika", "user": "guest", "vhost": "/",
            "endpoint": "10.0.0.9:5672", "since": 60.0, "channels": 1, "consumers": 0, "unacked": 0, "held": 0,
            "blocked": False, "stalled": 0,
        }  # fmt: skip
        found = SessionView(**values | more)
        self.clients.append(found)
        return found


class FakeUpstream:
    """An upstream with a healthy endpoint and a closed breaker."""

    def __init__(self, name: str, **config: Any) -> None:
        self.clock = Clock()
        self.config = upstream_of(name=name, bind=Address("127.0.0.1", 11434), **config)
        self.stats = ListenerStats("outbound", name)
        self.names: list[Name] = []
        self.problem = ""
        self.endpoints: list[Endpoint] = [Endpoint("10.0.0.1", 80, 10, "healthy", f"{name}-1")]
        self.amqp = FakeAmqp() if self.config.protocol == "amqp" else None
        own = self.config.policies.get("circuit_breaker", CircuitBreakerSettings())
        settings = [own, *(route.policies.get("circuit_breaker") for route in self.config.routes)]
        self.ejections: dict[str, int] = {}
        self.subsets: list[tuple[Subset, int, float]] = []
        self.canary: Canary | None = None
        self.balancer = create(self.config.balancer, Random(1), self.clock)
        self.listener = SimpleNamespace(
            files=(), host=name.encode(), name=name, clock=self.clock, stats=self.stats,
            assembly=SimpleNamespace(config=self.config, refresh=lambda: None, filters=[]),
        )  # fmt: skip
        self.breakers = [
            breaker.CircuitBreaker(s.failure_threshold, s.reset_timeout, s.half_open_requests, self.clock)
            for s in settings
            if isinstance(s, CircuitBreakerSettings)
        ]

    def balancer_of(self, endpoint: Endpoint) -> Balancer:
        """It has but one."""
        return self.balancer

    @property
    def now(self) -> UpstreamSnapshot:
        """What the admin API is told of it."""
        return snapshots.of_upstream(self)  # type: ignore[arg-type]


def _config() -> Config:
    return Config(service=Service(name="tasks", id="tasks-1", address="10.0.0.5"), admin=LOCAL)


class FakeRedirection:
    """A sidecar to which nothing is redirected."""

    listeners = ()
    families = tuple

    def contribution(self) -> Contribution:
        return Redirection(_config(), None, None, lambda: None).contribution()  # type: ignore[arg-type]


@dataclass
class FakeRunning:
    """Stands in for :class:`sidecar.agent.lifecycle.Agent`, as what is
    shown of one sees it. ``deep`` is what the app's check and the probes find: a health,
    or an error to raise."""

    config: Config = field(default_factory=_config)
    started: float = 1000.0
    phase: str = "ready"
    waiting_for: str = ""
    registry: FakeRegistry | None = None
    upstreams: dict[str, FakeUpstream] = field(default_factory=dict)
    inbound: ListenerStats = field(default_factory=lambda: ListenerStats("inbound", "tasks"))
    shared: Any = None
    ring: Ring = field(default_factory=lambda: Ring(10))
    lookups: dict[str, int] = field(default_factory=lambda: {"ok": 0, "missing": 0, "failed": 0})
    lag: LoopLag = field(default_factory=lambda: LoopLag(lambda when, call: None, lambda: 0.0))
    log_lines_dropped: int = 0
    spans: Any = None
    spans_withheld: int = 0
    app: Health = Health("healthy", "GET /health: 200")  # noqa: RUF009  # it is frozen
    deep: dict[str, Health | Exception] = field(default_factory=dict)
    changes: Sequence[str] | Exception = ()
    path: str = "tasks.yaml"
    access_log: AccessLog = field(default_factory=lambda: AccessLog("errors", lambda record: None))
    last_reload: LastReload = field(default_factory=lambda: LastReload(dict))
    checked: list[str] = field(default_factory=list)
    redirection: Any = field(default_factory=lambda: FakeRedirection())
    listening: Any = field(default_factory=lambda: SimpleNamespace(addresses={}))
    context: Any = field(default_factory=lambda: SimpleNamespace(decisions=Decisions(100), faults=FaultBoard()))
    apps_turn: AppsTurn = field(default_factory=AppsTurn)

    @property
    def stats(self) -> Sequence[ListenerStats]:
        return [self.inbound, *(upstream.stats for upstream in self.upstreams.values())]

    def app_health(self) -> Health:
        return self.app

    async def check_app(self) -> Health:
        return self._found(self.config.service.name)

    async def probe(self, upstream: str) -> Health:
        return self._found(upstream)

    async def reload(self) -> Sequence[str]:
        if isinstance(self.changes, Exception):
            raise self.changes
        return self.changes

    async def rehearse(self) -> Plan:
        if isinstance(self.changes, Exception):
            raise self.changes
        return plan(self.config, replace(self.config, drain=Drain(timeout=7.0)))

    def listeners(self) -> Sequence[Listener]:
        return [cast(Any, upstream.listener) for upstream in self.upstreams.values()]

    def drain(self, by: str = "") -> None:
        self.phase = "draining"

    def _found(self, name: str) -> Health:
        self.checked.append(name)
        found = self.deep.get(name, Health("healthy", "asked"))
        if isinstance(found, Exception):
            raise found
        return found


def running(*names: str, **attributes: Any) -> FakeRunning:
    """A ready sidecar with these upstreams."""
    return FakeRunning(upstreams={name: FakeUpstream(name) for name in names}, **attributes)
