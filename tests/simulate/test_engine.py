"""The simulation's own laws: time, servers, clients, and ports between them."""

from __future__ import annotations

from statistics import mean

import pytest

from sidecar.config.errors import ConfigError
from sidecar.endpoints.balancers.table import NAMES
from sidecar.simulate.clients import Clients
from sidecar.simulate.measure import Measured, PerSecond, percentile
from sidecar.simulate.port import Port
from sidecar.simulate.server import OK, Server
from sidecar.simulate.world import LATENCY, World

GET = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n"


class Heard:
    """Answers, and when they came."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.all: list[tuple[float, bytes]] = []

    def __call__(self, answer: bytes) -> None:
        self.all.append((self._world.now, answer))

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.all]


def pair(policies: str = "") -> tuple[World, Server, Port]:
    """A world with a server that takes a second, behind a port."""
    world = World()
    server = Server(world, lambda: 1.0, slots=1).at("10.0.0.1")
    port = Port(world, "there", policies)
    port.leads_to([("10.0.0.1", 80)])
    return world, server, port


def test_time_passes_only_from_one_event_to_the_next() -> None:
    world, heard = World(), []
    world.at(3600.0, lambda: heard.append(world.now))
    world.at(1.0, lambda: heard.append(world.now))
    world.run(7200.0)
    assert heard == [1.0, 3600.0]
    assert world.now == 7200.0


def test_a_server_works_off_its_queue_in_order() -> None:
    world = World()
    server, heard = Server(world, lambda: 1.0, slots=2, queue=1), Heard(world)
    for _ in range(4):
        server.ask(GET, heard)
    assert server.backlog == 1
    world.run(10.0)
    assert [round(at, 2) for at in heard.times] == [0.0, 1.0, 1.0, 2.0]
    assert heard.all[0][1].startswith(b"HTTP/1.1 503")
    assert (server.asked, server.done, server.refused, server.active) == (4, 3, 1, 0)


def test_more_slots_take_in_who_waits() -> None:
    world = World()
    server, heard = Server(world, lambda: 1.0, slots=1), Heard(world)
    for _ in range(3):
        server.ask(GET, heard)
    server.resize(3)
    world.run(1.5)
    assert len(heard.all) == 3


def test_what_dies_breaks_what_it_holds_and_forgets_it() -> None:
    world = World()
    server, heard = Server(world, lambda: 1.0, slots=1), Heard(world)
    server.ask(GET, heard)
    server.ask(GET, heard)
    server.stop()
    world.run(5.0)
    assert [answer for _, answer in heard.all] == [b"", b""]
    assert (server.done, server.backlog, server.accepts) == (0, 0, False)
    server.start()
    server.ask(GET, heard)
    world.run(10.0)
    assert heard.all[-1][1] == OK


def test_work_goes_on_for_those_who_have_left_unless_it_is_noticed() -> None:
    for notices, done in ((False, 2), (True, 1)):
        world = World()
        server, heard = Server(world, lambda: 1.0, slots=1, notices=notices), Heard(world)
        server.ask(GET, heard)
        server.leave(server.ask(GET, heard))
        world.run(5.0)
        assert (server.done, len(heard.all)) == (done, 1)
        assert server.wasted == done - 1


def test_a_request_goes_through_the_port_and_comes_back() -> None:
    world, _, port = pair()
    heard = Heard(world)
    port.ask(GET, heard)
    assert heard.all == []
    world.run(5.0)
    ((at, answer),) = heard.all
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert at == pytest.approx(1.0 + 5 * LATENCY)
    assert port.cluster.endpoints[0].active == 0


def test_the_policies_are_those_of_a_file() -> None:
    world, server, port = pair("timeout: {request: 300ms}\nretry: off\n")
    heard = Heard(world)
    port.ask(GET, heard)
    world.run(5.0)
    assert b"x-sidecar-error: timeout" in heard.all[0][1]
    assert server.wasted == 1
    with pytest.raises(ConfigError, match="retries"):
        Port(world, "there", "retries: off\n")


def test_one_who_leaves_takes_his_request_with_him() -> None:
    world, _, port = pair("bulkhead: {max_requests: 1}\n")
    heard = Heard(world)
    port.leave(port.ask(GET, heard))
    port.ask(GET, heard)  # there is room for it again
    world.run(5.0)
    assert [answer[9:12] for _, answer in heard.all] == [b"200"]
    assert port.listener.stats.active == 0


def test_what_is_down_refuses_and_what_has_gone_is_silent() -> None:
    for accepts, error in ((False, b"connect_failed"), (None, b"connect_timeout")):
        world, server, port = pair("retry: off\ntimeout: {connect: 200ms}\n")
        server.accepts = accepts
        heard = Heard(world)
        port.ask(GET, heard)
        world.run(5.0)
        assert b"x-sidecar-error: " + error in heard.all[0][1]


def test_a_chain_of_sidecars_has_real_heads_between_them() -> None:
    world = World()
    Server(world, lambda: 0.01).at("10.0.0.1")
    inner = Port(world, "inner", inbound=True)
    inner.leads_to([("10.0.0.1", 80)])
    world.places["10.0.0.2", 80] = inner
    outer = Port(world, "outer", "retry: off\n")
    outer.leads_to([("10.0.0.2", 80)], sidecars=True)
    heard = Heard(world)
    outer.ask(GET, heard)
    world.run(1.0)
    assert heard.all[0][1].startswith(b"HTTP/1.1 200")
    inner.leads_to([])
    outer.ask(GET, heard)
    world.run(2.0)
    assert heard.all[1][1].startswith(b"HTTP/1.1 503")
    assert outer.listener.stats.peer_errors["no_endpoints"] == 1


def test_an_app_that_needs_another_one_answers_502_when_that_fails() -> None:
    world = World()
    below = Server(world, lambda: 0.01).at("10.0.0.1")
    port = Port(world, "below", "retry: off\n")
    port.leads_to([("10.0.0.1", 80)])
    above, heard = Server(world, lambda: 0.01, calls=port), Heard(world)
    above.ask(GET, heard)
    world.run(1.0)
    below.stop()
    above.ask(GET, heard)
    world.run(2.0)
    assert [answer[9:12] for _, answer in heard.all] == [b"200", b"502"]


@pytest.mark.parametrize("balancer", NAMES)
def test_the_same_seed_gives_the_same_run(balancer: str) -> None:
    def once(seed: int) -> tuple[list[float], list[int]]:
        world = World(seed)
        random = world.random("server")
        servers = [Server(world, lambda: random.expovariate(50)).at(f"10.0.0.{n}") for n in range(3)]
        port = Port(world, "there", f"balancer: {balancer}\n")
        port.leads_to((f"10.0.0.{n}", 80) for n in range(3))
        clients = Clients(world, port, 100, 1.0)
        world.run(3.0)
        return clients.measured.seconds, [server.asked for server in servers]

    assert once(1) == once(1)
    assert once(1) != once(2)


def test_clients_come_at_their_rate_and_all_of_them_are_measured() -> None:
    world = World()
    Server(world, lambda: 0.001).at("10.0.0.1")
    port = Port(world, "there")
    port.leads_to([("10.0.0.1", 80)])
    clients = Clients(world, port, lambda now: 200.0 if now < 5 else 0.0, 20.0)
    world.run(21.0)
    measured = clients.measured
    assert measured.asked == len(measured.status) == measured.good == pytest.approx(1000, rel=0.1)
    assert max(measured.began) < 5.1
    gaps = [b - a for a, b in zip(measured.began, measured.began[1:], strict=False)]
    assert mean(gaps) == pytest.approx(1 / 200, rel=0.1)


def test_little_s_law_holds_for_a_server_that_is_never_full() -> None:
    world = World()
    random = world.random("server")
    server = Server(world, lambda: random.expovariate(1 / 0.1), slots=1000).at("10.0.0.1")
    port = Port(world, "there", "bulkhead: off\n")
    port.leads_to([("10.0.0.1", 80)])
    active: list[int] = []
    for n in range(400):
        world.at(2 + n * 0.02, lambda: active.append(server.active))
    clients = Clients(world, port, 200, 10.0)
    world.run(15.0)
    took = mean(clients.measured.seconds)
    assert mean(active) == pytest.approx(200 * took, rel=0.1)


def test_percentiles_are_values_that_were_there() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (50.0, 99.0, 100.0)
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([], 0.5) == 0.0


def test_windows_count_by_when_a_request_began() -> None:
    measured = Measured()
    measured.add(0.5, 2.0, OK)
    measured.add(1.5, 0.1, b"HTTP/1.1 503 x\r\nx-sidecar-error: circuit_open\r\n\r\n")
    measured.add(1.6, 0.2, b"")
    first, second, third = measured.windows(3.0)
    assert (first.asked, first.good, first.p99) == (1, 1, 2.0)
    assert (second.asked, second.good, second.p99) == (2, 0, 0.0)
    assert third.asked == 0
    assert measured.errors == {"circuit_open": 1}
    assert measured.within(1.0, 3.0) == second


def test_events_are_counted_by_the_second() -> None:
    world = World()
    count = PerSecond(lambda: world.now)
    for at in (0.1, 0.2, 2.0):
        world.at(at, count)
    world.run(5.0)
    assert count.series(4) == [2.0, 0.0, 1.0, 0.0]
    assert count.between(0, 2) == 2
