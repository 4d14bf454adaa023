"""Which endpoints a real sidecar uses: a slow one and a failing one are ejected, one that its check finds unwell gets
nothing, and with none left requests are refused. Nothing is asserted about how long any of it takes."""

from __future__ import annotations

import contextlib
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.processes import Sidecar, ending, get, wait_for
from support.scripted import Server

CHECK = {"http": "/health", "interval": "100ms", "timeout": "2s", "fall": 2, "rise": 1}


class Backend:
    """An HTTP server that answers its health check and everything else as it is told."""

    def __init__(self) -> None:
        self.health: tuple[int, str] = (200, "{}")
        self.status = 200
        self.delay = 0.0
        self.served = 0
        self.server = Server(self._play)

    def _play(self, connection: socket.socket) -> None:
        if b"GET /health" in self.server.head:
            status, body = self.health
        else:
            status, body = self.status, "{}"
            self.served += 1
            time.sleep(self.delay)
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        with contextlib.suppress(OSError):
            connection.sendall(f"{head}{body}".encode())


@pytest.fixture(scope="module")
def backends() -> Iterator[list[Backend]]:
    found = [Backend() for _ in range(4)]
    yield found
    for it in found:
        it.server.stop()


@pytest.fixture(scope="module")
def sidecar(backends: list[Backend], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    addresses = [it.server.address for it in backends]
    quick = {"min_requests": 5, "for": "10m", "max_for": "10m"}

    def upstream(endpoints: list[str], **health: Any) -> dict[str, Any]:
        own = {"retry": "off", "circuit_breaker": "off"}
        return {"bind": "127.0.0.1:0", "endpoints": endpoints, "health": health, **own}

    config = {
        "service": {"name": "edge"},
        "upstreams": {
            "slow": upstream(addresses, eject=quick | {"error_rate": 0}),
            "failing": upstream(addresses, eject=quick | {"consecutive": 0, "latency": 0}),
            "checked": upstream(addresses[:2], check=CHECK, when_none="refuse"),
            "tcp": {
                "bind": "127.0.0.1:0", "protocol": "tcp", "endpoints": [addresses[0], "127.0.0.1:9"],
                "health": {"check": {"tcp": True, "interval": "100ms", "fall": 1}},
            },
        },
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("health")
    with ending(Sidecar(folder, config)) as running:
        it = running[0]
        assert isinstance(it, Sidecar)
        yield it.ready()


def endpoints(sidecar: Sidecar, name: str) -> list[dict[str, Any]]:
    status, found = get(f"{sidecar.admin}/upstreams/{name}")
    assert status == 200
    listed: list[dict[str, Any]] = found["endpoints"]
    return listed


def ask(sidecar: Sidecar, name: str) -> int:
    return get(f"http://127.0.0.1:{sidecar.port(name)}/work")[0]


def ejected(sidecar: Sidecar, name: str, number: int) -> Callable[[], dict[str, Any] | None]:
    """Sends some requests; the ejection of that endpoint, once there is one."""

    def look() -> dict[str, Any] | None:
        for _ in range(8):
            ask(sidecar, name)
        ejection: dict[str, Any] | None = endpoints(sidecar, name)[number]["ejection"]
        return ejection

    return look


def metrics(sidecar: Sidecar) -> list[str]:
    with urllib.request.urlopen(f"{sidecar.admin}/metrics") as answer:
        lines: list[str] = answer.read().decode().splitlines()
        return lines


def test_a_slow_one_of_four_is_ejected(backends: list[Backend], sidecar: Sidecar) -> None:
    slow = backends[2]
    slow.delay = 0.1
    try:
        ejection = wait_for(ejected(sidecar, "slow", 2), "the slow one is ejected")
        assert ejection["reason"] == "latency"
        assert "times the usual one" in ejection["text"]
        before = slow.served
        assert {ask(sidecar, "slow") for _ in range(12)} == {200}
        assert slow.served == before, "it is asked no more"
    finally:
        slow.delay = 0.0
    assert 'sidecar_ejections_total{upstream="slow",reason="latency"} 1.0' in metrics(sidecar)
    assert 'sidecar_endpoints{upstream="slow",state="ejected"} 1.0' in metrics(sidecar)
    told = [event for event in get(f"{sidecar.admin}/events")[1]["events"] if event["kind"] == "ejection"]
    assert [event["details"]["reason"] for event in told if event["upstream"] == "slow"] == ["latency"]
    assert endpoints(sidecar, "slow")[2]["share"] == 0


def test_one_that_fails_is_ejected_by_its_share_of_failures(backends: list[Backend], sidecar: Sidecar) -> None:
    failing = backends[3]
    failing.status = 500
    try:
        ejection = wait_for(ejected(sidecar, "failing", 3), "the failing one is ejected")
    finally:
        failing.status = 200
    assert ejection["reason"] == "error_rate"
    assert {ask(sidecar, "failing") for _ in range(8)} == {200}


def test_what_a_check_finds_unwell_gets_nothing_and_with_none_left_all_is_refused(
    backends: list[Backend], sidecar: Sidecar
) -> None:
    def states() -> list[str]:
        return [it["state"] for it in endpoints(sidecar, "checked")]

    one, two = backends[:2]
    wait_for(lambda: all(it["check"] for it in endpoints(sidecar, "checked")), "both were checked")
    assert states() == ["healthy", "healthy"]
    one.health = (503, "{}")
    wait_for(lambda: states() == ["unhealthy", "healthy"], "the check has found it")
    before = one.served
    assert {ask(sidecar, "checked") for _ in range(6)} == {200}
    assert one.served == before
    assert get(f"{sidecar.admin}/health/checked")[1]["output"] == "1 of 2 endpoints is unhealthy"
    two.health = (200, '{"status": "warning"}')
    wait_for(lambda: states() == ["unhealthy", "warning"], "it says so itself")
    assert ask(sidecar, "checked") == 200
    two.health = (200, '{"status": "unhealthy"}')
    wait_for(lambda: states() == ["unhealthy", "unhealthy"], "it says so itself")
    assert ask(sidecar, "checked") == 503
    assert 'sidecar_endpoints{upstream="checked",state="unhealthy"} 2.0' in metrics(sidecar)
    refused = next(it for it in get(f"{sidecar.admin}/why?upstream=checked")[1]["requests"])
    told = get(f"{sidecar.admin}/why/{refused['request_id']}")[1]
    assert told["error"] == "no_endpoints"
    assert told["setting"] == "upstreams.checked.health.when_none"
    assert "is unhealthy (GET /health: 503)" in told["cause"]
    one.health = two.health = (200, "{}")
    wait_for(lambda: states() == ["healthy", "healthy"], "both are well again")
    assert ask(sidecar, "checked") == 200


def test_a_connection_is_a_check(sidecar: Sidecar) -> None:
    """One of two takes connections; the other one is unhealthy without a try of traffic."""

    def checks() -> list[dict[str, Any]]:
        return [it["check"] for it in endpoints(sidecar, "tcp") if it["check"]]

    wait_for(lambda: endpoints(sidecar, "tcp")[1]["state"] == "unhealthy", "nobody is there")
    well, unwell = wait_for(lambda: found if len(found := checks()) == 2 else None, "both were checked")
    assert (well["status"], well["output"]) == ("healthy", "connect: accepted")
    assert unwell["output"] == "connect: connection refused: nothing listens there"
    assert endpoints(sidecar, "tcp")[1]["failures"] == 0
