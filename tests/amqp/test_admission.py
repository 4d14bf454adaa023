"""When a port refuses clients, and how it finds out that it need not."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise
from typing import Any, cast

import pytest

from sidecar.amqp.admission import NO_BROKER, OVERLOADED, QUIET_SECONDS, Admission
from sidecar.core.limits import Limits
from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.filters.rate_limit import RateLimitSettings
from sidecar.net.listen import Acceptor
from sidecar.resilience.breaker import CLOSED, OPEN
from support.amqp import GREETING, Peer, Stage, close, start, tune
from support.clock import Clock
from support.kept import KeptStage
from support.ports import upstream_of

BREAKER = CircuitBreakerSettings(failure_threshold=1, reset_timeout=60.0)


class _Acceptor:
    def __init__(self) -> None:
        self.events: list[str] = []

    def shut(self) -> None:
        self.events.append("shut")

    def reopen(self) -> None:
        self.events.append("reopen")


def arrives(stage: Stage) -> Peer:
    client = stage.connect()
    client.says(GREETING)
    return client


def refusing(stage: Stage) -> list[str]:
    return list(stage.listener.amqp_view.refusing)


def away(stage: Stage) -> None:
    stage.loop.dialled = lambda host, port: "refuse"


def back(stage: Stage) -> None:
    stage.loop.dialled = lambda host, port: "accept"


def broken_off(stage: Stage) -> None:
    """A client that is connected loses its broker."""
    _, broker = stage.open(1)
    broker.breaks()


# -- admission ---------------------------------------------------------------------------------------------------------


def test_it_is_shut_while_there_is_any_reason() -> None:
    acceptor = _Acceptor()
    admission = Admission("rabbit", cast(Acceptor, acceptor), Clock())
    admission.shut(NO_BROKER, "gone")
    admission.shut(NO_BROKER, "still gone")
    admission.shut(OVERLOADED, "full")
    assert admission.reasons == {NO_BROKER: "gone", OVERLOADED: "full"}
    admission.open(NO_BROKER)
    assert acceptor.events == ["shut"]
    admission.open(OVERLOADED)
    admission.open(OVERLOADED)
    assert acceptor.events == ["shut", "reopen"]


def test_a_reason_that_comes_and_goes_is_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    admission = Admission("rabbit", cast(Acceptor, _Acceptor()), clock)
    for _ in range(5):
        admission.shut(OVERLOADED, "full")
        admission.open(OVERLOADED)
    said = ["AMQP clients are refused: full", "AMQP clients are no longer refused"]
    assert caplog.messages == said
    clock.advance(QUIET_SECONDS)
    admission.shut(OVERLOADED, "full")
    admission.open(OVERLOADED)
    assert caplog.messages == said * 2


# -- no broker ---------------------------------------------------------------------------------------------------------


def test_a_client_finds_out_and_the_port_finds_it_again() -> None:
    stage = Stage(upstream={"circuit_breaker": BREAKER})
    away(stage)
    assert arrives(stage).closed
    assert refusing(stage) == [NO_BROKER]
    [breaker] = stage.listener.breakers
    assert breaker.state == OPEN
    stage.advance(300)
    assert refusing(stage) == [NO_BROKER]
    back(stage)
    stage.advance(1.5)
    assert refusing(stage) == []
    assert breaker.state == CLOSED
    assert not stage.listener.cluster.endpoints[0].ejected_until
    client = arrives(stage)
    stage.broker().says(start())
    client.gets(start())
    stage.over()


def test_it_is_found_out_when_a_client_loses_its_broker() -> None:
    for how in ("breaks", "shuts down"):
        stage = Stage()
        _, broker = stage.open(1)
        away(stage)
        if how == "breaks":
            broker.breaks()
        else:
            broker.says(close(320, "shutdown"))
        stage.loop.settle()
        assert refusing(stage) == [NO_BROKER]
        back(stage)
        stage.advance(1.5)
        assert refusing(stage) == []
        stage.over()


def test_a_broker_that_closes_for_the_clients_fault_is_not_doubted() -> None:
    stage = Stage()
    _, broker = stage.open(1)
    broker.says(close(504, "CHANNEL_ERROR"))
    assert not stage.calls
    stage.over()


def test_a_client_that_loses_its_broker_while_that_is_there() -> None:
    stage = Stage()
    broken_off(stage)
    stage.loop.settle()
    [call] = stage.calls
    assert call.heard() == GREETING
    assert refusing(stage) == []
    stage.advance(10)
    assert len(stage.calls) == 1
    stage.over()


def test_it_is_asked_no_more_than_so_often() -> None:
    stage = Stage()
    dialled: list[float] = []

    def verdict(host: str, port: int) -> str:
        dialled.append(stage.loop.now)
        return "refuse"

    stage.loop.dialled = verdict
    arrives(stage)
    stage.advance(60)
    pauses = [later - earlier for earlier, later in pairwise(dialled)][5:]
    assert 50 < len(dialled) < 120
    assert max(pauses) < 1.3
    assert len(set(pauses)) > 10  # sidecars that have lost a broker together do not come back to it together
    stage.over()


@pytest.mark.parametrize(
    ("how", "kind"),
    [("silent", "timeout"), ("mute", "no_answer"), ("stranger", "malformed"), ("hangs up", "malformed")],
)
def test_what_takes_connections_is_not_yet_a_broker(how: str, kind: str) -> None:
    stage = Stage()
    stage.answering = False
    stage.loop.dialled = lambda host, port: "silent" if how == "silent" else "accept"
    broken_off_silently(stage)
    (endpoint,) = stage.listener.cluster.endpoints
    seen = set()
    for _ in range(3):
        if how not in ("silent", "mute"):
            call = stage.calls[-1]
            if how == "stranger":
                call.says(tune(), pieces=5)
            else:
                call.leaves()
            seen.add(endpoint.last_error and endpoint.last_error.kind)
        stage.advance(2.5)
        seen.add(endpoint.last_error and endpoint.last_error.kind)
        assert refusing(stage) == [NO_BROKER]
    assert kind in seen
    assert all(call.transport.gone for call in stage.calls[:-2])
    stage.loop.dialled = lambda host, port: "accept"
    stage.answering = True
    stage.advance(2.5)
    assert refusing(stage) == []
    stage.over()


def broken_off_silently(stage: Stage) -> None:
    """A broker is lost that was connected to before whatever the test says of connections."""
    dialled = stage.loop.dialled
    back(stage)
    _, broker = stage.open(1)
    stage.loop.dialled = dialled
    broker.breaks()
    stage.loop.settle()


def test_one_broker_of_several_is_enough() -> None:
    stage = Stage(brokers=20)
    stage.loop.dialled = lambda host, port: "accept" if port == 5672 + 17 else "refuse"
    cluster = stage.listener.cluster
    assert arrives(stage).closed
    assert refusing(stage) == []  # it was one of them that was tried
    for endpoint in cluster.endpoints:
        cluster.failed(endpoint, hard=True)
    assert arrives(stage).closed
    stage.advance(10)
    assert refusing(stage) == []
    assert 5672 + 17 in [endpoint.port for endpoint in cluster.eligible]
    stage.over()


def test_it_is_found_out_while_no_client_is_connected() -> None:
    stage = Stage()
    stage.listener.probe.watch()
    stage.advance(20)
    assert 4 < len(stage.calls) < 20
    assert not any(call.heard() for call in stage.calls)  # a broker that hears nothing logs nothing
    assert all(call.transport.gone for call in stage.calls)
    away(stage)
    stage.advance(5)
    assert refusing(stage) == [NO_BROKER]
    back(stage)
    stage.advance(1.5)
    assert refusing(stage) == []
    stage.over()


def test_a_connected_client_is_enough_to_know() -> None:
    stage = Stage()
    stage.open(1)
    stage.listener.probe.watch()
    stage.advance(20)
    assert not stage.calls
    stage.over()


def test_there_are_no_endpoints_and_then_there_are() -> None:
    stage = Stage(brokers=0)
    arrives(stage)
    assert refusing(stage) == [NO_BROKER]
    stage.advance(5)
    from sidecar.core.instance import Instance

    stage.listener.cluster.update([Instance(host="10.0.0.9", port=5672)])
    stage.advance(1.5)
    assert refusing(stage) == []
    stage.over()


def test_an_operator_keeps_it_shut() -> None:
    stage = Stage(upstream={"circuit_breaker": BREAKER})
    [breaker] = stage.listener.breakers
    breaker.force("open")
    assert arrives(stage).closed
    stage.advance(10)
    assert refusing(stage) == [NO_BROKER]
    assert breaker.state == OPEN
    breaker.force("auto")
    stage.advance(1.5)
    assert refusing(stage) == []
    stage.over()


def test_a_shortage_on_this_host_says_nothing_of_the_broker() -> None:
    stage = Stage()
    create_connection = stage.loop.create_connection

    async def lacking(*arguments: Any) -> None:
        raise OSError(24, "Too many open files")

    _, broker = stage.open(1)
    cast(Any, stage.loop).create_connection = lacking
    broker.breaks()
    stage.loop.settle()
    stage.advance(3)
    assert refusing(stage) == []
    cast(Any, stage.loop).create_connection = create_connection
    stage.advance(2)
    assert refusing(stage) == []
    stage.over()


def test_with_a_spool_clients_come_in_and_an_open_breaker_closes() -> None:
    stage = KeptStage(upstream={"circuit_breaker": BREAKER})
    stage.away()
    for _ in range(2):
        client = arrives(stage)
        assert client.heard()
        client.leaves()
        stage.advance(1.5)
    [breaker] = stage.listener.breakers
    assert breaker.state == OPEN
    assert refusing(stage) == []
    stage.there()
    stage.advance(1.5)
    assert breaker.state == CLOSED
    stage.over()


# -- no room -----------------------------------------------------------------------------------------------------------


def test_it_is_shut_while_every_place_is_taken() -> None:
    stage = Stage(upstream={"bulkhead": BulkheadSettings(max_connections=2)})
    first, broker = stage.open(1)
    assert refusing(stage) == []
    stage.open(1)
    assert refusing(stage) == [OVERLOADED]
    first.leaves()
    broker.breaks()
    assert refusing(stage) == []
    stage.over()


def test_the_same_for_clients_that_have_said_nothing() -> None:
    stage = Stage(upstream={"limits": Limits(connections=2)})
    stage.connect()
    second = stage.connect()
    assert refusing(stage) == [OVERLOADED]
    second.leaves()
    assert refusing(stage) == []
    stage.over()


def test_who_has_waited_too_long_for_a_place_is_sent_away() -> None:
    stage = Stage(upstream={"bulkhead": BulkheadSettings(max_connections=1, max_pending=1, pending_timeout=5.0)})
    stage.open(1)
    second = arrives(stage)
    stage.advance(5.1)
    second.gets_nothing()
    assert second.closed
    stage.over()


def test_more_places_by_a_reload_open_it() -> None:
    stage = Stage(upstream={"bulkhead": BulkheadSettings(max_connections=1)})
    stage.open(1)
    config = upstream_of(
        name="rabbit", bind=stage.listener.bind, protocol="amqp", amqp=stage.config, bulkhead=BulkheadSettings()
    )
    stage.listener.assembly.apply(stage.listener, config)
    assert refusing(stage) == []
    stage.over()


def test_a_rate_that_is_exceeded_is_no_word_about_the_login_either() -> None:
    stage = Stage(upstream={"rate_limit": RateLimitSettings(rate=0.1, burst=1)})
    stage.open(1)
    client = arrives(stage)
    client.gets_nothing()
    assert client.closed
    assert refusing(stage) == []
    stage.over()


# -- the end -----------------------------------------------------------------------------------------------------------


def test_one_that_drains_takes_nobody() -> None:
    stage = Stage()
    client, _ = stage.open(1)
    silent = stage.connect()
    logging_in = arrives(stage)
    stage.broker().says(start())
    stage.listener.drain()
    assert refusing(stage) == ["draining"]
    assert silent.closed
    assert logging_in.connected  # it would take an end for a refusal of its login
    late = arrives(stage)
    late.gets_nothing()
    assert late.closed
    assert client.connected
    stage.over()


def test_stopping_ends_the_search() -> None:
    stage = Stage()
    away(stage)
    arrives(stage)
    asyncio.run(stage.listener.stop())
    dialled: list[int] = []

    def verdict(host: str, port: int) -> str:
        dialled.append(port)
        return "refuse"

    stage.loop.dialled = verdict
    stage.advance(10)
    assert not dialled
    stage.over()


def test_a_glance_under_way_does_not_stand_for_the_question() -> None:
    """It ends well wherever connections are taken; whether there is a broker has to be asked all the same."""
    stage = Stage(upstream={"circuit_breaker": BREAKER})
    [breaker] = stage.listener.breakers
    stage.loop.dialled = lambda host, port: "silent"
    stage.listener.probe.watch()
    stage.advance(0.3)
    glancing = list(stage.loop.tasks)
    assert len(glancing) == 1
    breaker.force("open")
    back(stage)
    assert arrives(stage).closed
    assert refusing(stage) == [NO_BROKER]
    breaker.force("auto")
    for task in glancing:
        task._step()  # its connection stands
    stage.advance(1.5)
    assert refusing(stage) == []
    stage.over()
