"""What goes wrong, and how long the clients need after it is over."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.amqp import wire
from bench.amqp.client import Connection, wait_open
from bench.processes import BenchError, Child
from bench.rabbitmq import RabbitMQ
from bench.recovery.watching import Watched
from sidecar.demo.ports import free_ports

DIRECT: Final = "direct"
WAYS: Final = (DIRECT, "port", "spool")
#: Seconds for which clients are waited for: until they work at first, and after the fault is over.
START_SECONDS: Final = 90.0
RECOVERY_SECONDS: Final = 75.0
#: The longest that a broker may take to start, on a machine that has much else to do.
BROKER_SECONDS: Final = 300.0
#: How long clients that come at a bad time are refused before it is over.
REFUSED_SECONDS: Final = 20.0
#: Places of a port's bulkhead, where it is to be full.
_PLACES: Final = 8
_PROBE: Final = "probe"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one client on one way: seconds from the end of the fault until a publish made after it was confirmed, until a
    message came, until both were so (None: not within :data:`RECOVERY_SECONDS`). ``told``: what its tries to connect
    were told while the fault lasted; ``told_after``: the same from a second after its end; ``gone``: why it gave up.
    ``started`` is False for one that did not even work before."""

    published: float | None
    consumed: float | None
    told: Sequence[str]
    told_after: Sequence[str]
    gone: str = ""
    started: bool = True

    @property
    def seconds(self) -> float | None:
        return None if self.published is None or self.consumed is None else max(self.published, self.consumed)


@dataclass(slots=True)
class Bench:
    """One broker, and what the scenarios share. ``commands``: client → how to call it."""

    broker: RabbitMQ
    folder: Path
    commands: Mapping[str, Sequence[str]]
    say: Callable[[str], None]
    #: The shortest time that the broker took to start, seconds.
    starting: float = 30.0
    _sidecars: int = field(default=0)

    @contextmanager
    def sidecar(self, **settings: Any) -> Iterator[Sidecar]:
        """A sidecar with ports for all clients; ``settings`` are keys of :meth:`Sidecar.config`."""
        self._sidecars += 1
        with Sidecar(self, self.folder / f"sidecar-{self._sidecars}", settings) as sidecar:
            yield sidecar

    @contextmanager
    def clients(self, sidecar: Sidecar, ways: Sequence[str] = WAYS) -> Iterator[list[Watched]]:
        """All of them on these ways, just started."""
        with ExitStack() as stack:
            found = []
            for kind, command in self.commands.items():
                for way in ways:
                    port = self.broker.port if way == DIRECT else sidecar.ports[kind, way]
                    found.append(Watched(kind, way, command, port, f"{sidecar.name}.{kind}.{way}", self.folder))
                    stack.enter_context(found[-1])
            try:
                yield found
            finally:
                for client in found:
                    client.terminate()  # all at once; the stack waits for one after the other

    def wait_working(self, clients: Sequence[Watched], since: float, seconds: float) -> None:
        """Until all work, or have ended, or the time is over."""
        deadline = time.time() + seconds
        while time.time() < deadline and any(each.working(since) is None and not each.ended for each in clients):
            time.sleep(0.1)

    def take_broker(self) -> None:
        self.say(f"  {time.strftime('%H:%M:%S')} the broker goes")
        self.broker.stop()

    def bring_broker(self) -> float:
        """When somebody could log in to it."""
        begun = time.monotonic()
        self.broker.start()
        self.broker.wait_ready(BROKER_SECONDS)
        wait_open(self.broker.port, time.monotonic() + BROKER_SECONDS, self.broker.process.check).close()
        took = time.monotonic() - begun
        self.starting = min(self.starting, took)
        self.say(f"  {time.strftime('%H:%M:%S')} the broker is back (its start took {took:.1f} s)")
        return time.time()

    def started(self, clients: Sequence[Watched], since: float) -> set[tuple[str, str]]:
        """Which of them work, after they had some time to begin."""
        self.wait_working(clients, since, START_SECONDS)
        found = {(each.kind, each.way) for each in clients if each.working(since) is not None}
        self.say(f"  {time.strftime('%H:%M:%S')} {len(found)} of {len(clients)} clients work")
        return found

    def outcomes(
        self, clients: Sequence[Watched], begun: float, over: float, started: set[tuple[str, str]] | None = None
    ) -> dict[tuple[str, str], Outcome]:
        """Wait for their recovery from a fault that lasted from ``begun`` until ``over``."""
        self.wait_working(clients, over, RECOVERY_SECONDS - (time.time() - over))
        return {
            (each.kind, each.way): Outcome(
                published=_after(each.published(over), over),
                consumed=_after(each.consumed(over), over),
                told=each.failed(begun, over),
                told_after=each.failed(over + 1),
                gone=each.gone,
                started=started is None or (each.kind, each.way) in started,
            )
            for each in clients
        }


class Sidecar:
    """One sidecar with two ports for each client, so that their breakers, bulkheads and spools are their own, as beside
    an app each. It may be started again on the same ports and with the same spool."""

    def __init__(self, bench: Bench, folder: Path, settings: dict[str, Any]) -> None:
        folder.mkdir()
        self.name = folder.name
        self._bench = bench
        self._folder = folder
        names = [(kind, way) for kind in bench.commands for way in WAYS if way != DIRECT] + [(_PROBE, _PROBE)]
        found = free_ports(len(names) + 1)
        self.ports = dict(zip(names, found, strict=False))
        (folder / "config.yaml").write_text(json.dumps(self.config(found[-1], **settings), indent=2))  # JSON is YAML
        self._starts = 0
        self.process = self._start()

    def config(self, admin: int, drain: str = "5s", places: int = 0) -> dict[str, Any]:
        """Everything as it comes, but what is told: how long a drain may last, how many places a bulkhead has."""
        upstreams: dict[str, Any] = {}
        for (kind, way), port in self.ports.items():
            upstream: dict[str, Any] = {
                "bind": f"127.0.0.1:{port}",
                "protocol": "amqp",
                "endpoints": [f"127.0.0.1:{self._bench.broker.port}"],
            }
            if way == "spool":
                upstream["amqp"] = {
                    "credentials": {"username": "guest", "password": "guest"},
                    "spool": {"path": str(self._folder / "spool")},
                }
            if places and kind != _PROBE:
                upstream["bulkhead"] = {"max_connections": places}
            upstreams[f"{kind}-{way}"] = upstream
        return {
            "service": {"name": "bench"},
            "registry": "none",
            "drain": {"timeout": drain},
            "upstreams": upstreams,
            "admin": {"bind": f"127.0.0.1:{admin}"},
            "tracing": {"sample": 0},
        }

    @property
    def probe(self) -> int:
        """A port that is nobody's."""
        return self.ports[_PROBE, _PROBE]

    def _start(self) -> Child:
        self._starts += 1
        command: list[str | Path] = [sys.executable, "-m", "sidecar", "run", self._folder / "config.yaml"]
        return Child(self.name, command, None, self._folder / f"{self._starts}.log")

    def wait_ready(self) -> None:
        wait_open(self.probe, time.monotonic() + START_SECONDS, self.process.check).close()

    def restart(self) -> float:
        """As a supervisor does it: told to end, and another one started beside it until one stays. Returns when that
        one let somebody in."""
        old = self.process
        old.terminate()
        time.sleep(0.5)  # until it has begun to drain
        deadline = time.monotonic() + START_SECONDS
        self.process = self._start()
        try:
            while True:
                with suppress(OSError, wire.WireError):
                    Connection(self.probe).close()
                    return time.time()
                if self.process.ended:
                    self.process = self._start()
                if time.monotonic() > deadline:
                    raise BenchError("no other sidecar came in the place of the one that drained")
                time.sleep(0.2)
        finally:
            old.end()

    def __enter__(self) -> Sidecar:
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.end()


Outcomes = dict[tuple[str, str], Outcome]


def outage(bench: Bench, seconds: float) -> Outcomes:
    """Clients at work; the broker is away for so long, or longer where its start takes longer than it has before."""
    with bench.sidecar() as sidecar, bench.clients(sidecar) as clients:
        started = bench.started(clients, 0)
        begun = time.time()
        bench.take_broker()
        time.sleep(max(seconds - bench.starting - (time.time() - begun), 0))
        over = bench.bring_broker()
        bench.say(f"  it was away for {over - begun:.1f} s")
        return bench.outcomes(clients, begun, over, started)


def newcomers(bench: Bench) -> Outcomes:
    """Clients that are started while the broker is away; they were there before."""
    with bench.sidecar() as sidecar:
        with bench.clients(sidecar) as clients:
            started = bench.started(clients, 0)
        bench.take_broker()
        begun = time.time()
        with bench.clients(sidecar) as clients:
            time.sleep(max(REFUSED_SECONDS - bench.starting, 0))
            return bench.outcomes(clients, begun, bench.bring_broker(), started)


def draining(bench: Bench) -> Outcomes:
    """Clients at work; their sidecar drains, and another one comes in its place."""
    with bench.sidecar() as sidecar, bench.clients(sidecar, WAYS[1:]) as clients:
        started = bench.started(clients, 0)
        begun = time.time()
        bench.say(f"  {time.strftime('%H:%M:%S')} the sidecar drains")
        over = sidecar.restart()
        bench.say(f"  {time.strftime('%H:%M:%S')} another one is there, {over - begun:.1f} s later")
        return bench.outcomes(clients, begun, over, started)


def newcomers_draining(bench: Bench) -> Outcomes:
    """Clients that are started while the sidecar drains, for the sake of somebody who has work to do."""
    with bench.sidecar(drain=f"{REFUSED_SECONDS:g}s") as sidecar:
        with bench.clients(sidecar, WAYS[1:]) as clients:
            started = bench.started(clients, 0)
        with _holding(sidecar.probe):
            begun = time.time()
            bench.say(f"  {time.strftime('%H:%M:%S')} the sidecar drains")
            with bench.clients(sidecar, WAYS[1:]) as clients:
                over = sidecar.restart()
                bench.say(f"  {time.strftime('%H:%M:%S')} another one is there, {over - begun:.1f} s later")
                return bench.outcomes(clients, begun, over, started)


def full(bench: Bench) -> Outcomes:
    """Clients that are started while every place of their port is taken; then all places become free."""
    with bench.sidecar(places=_PLACES) as sidecar:
        ports = [port for (kind, _), port in sidecar.ports.items() if kind != _PROBE]
        holders = [Connection(port) for port in ports for _ in range(_PLACES)]
        begun = time.time()
        with bench.clients(sidecar, WAYS[1:]) as clients:
            time.sleep(REFUSED_SECONDS)
            for holder in holders:
                holder.close()
            over = time.time()
            bench.say(f"  {time.strftime('%H:%M:%S')} {len(holders)} connections made room")
            return bench.outcomes(clients, begun, over)


@contextmanager
def _holding(port: int) -> Iterator[None]:
    """A consumer there that has a message and does not acknowledge it: a drain waits for it."""
    connection = Connection(port)
    connection.call(wire.declare_queue("recovery.held"))
    connection.send(wire.publish("", "recovery.held", b"{}"))
    connection.call(wire.consume("recovery.held", "held"))
    connection.take()
    while not connection.delivered:
        connection.wait()
    try:
        yield
    finally:
        connection.close()


def _after(moment: float | None, over: float) -> float | None:
    return None if moment is None else round(max(moment - over, 0.0), 1)


#: In the order of the report.
SCENARIOS: Final[dict[str, Callable[[Bench], Outcomes]]] = {
    "away-5": lambda bench: outage(bench, 5),
    "away-60": lambda bench: outage(bench, 60),
    "away-300": lambda bench: outage(bench, 300),
    "newcomer": newcomers,
    "draining": draining,
    "draining-newcomer": newcomers_draining,
    "full": full,
}
TITLES: Final = {
    "away-5": "The broker is away for 5 s (or as long as its start takes)",
    "away-60": "The broker is away for 60 s",
    "away-300": "The broker is away for 300 s",
    "newcomer": "The client starts while the broker is away",
    "draining": "The sidecar drains, and another one comes in its place",
    "draining-newcomer": "The client starts while the sidecar drains",
    "full": "The client starts while the bulkhead is full",
}
