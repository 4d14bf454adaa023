"""``GET /why/{id}`` over two sidecars that find each other in a real Consul, which fails meanwhile; and what is told of
that as events."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from support.consul import ConsulAgent
from support.failing import MARK, OFF, TOKEN, Mesh, curt, fine, send, whole
from support.processes import Sidecar, ending, wait_for
from support.scripted import Server

PLAYS = {"/curt": curt, "/upload": whole}


@dataclass
class Scene(Mesh):
    """With their registry, and with what the second one is started by."""

    consul: ConsulAgent
    start: Callable[[str], Sidecar]

    def ask(self, path: str, request_id: str) -> int:
        request = f"POST {path}?key={MARK} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX-Request-Id: %b\r\n\r\n"
        return send(self.front.port("shop"), request.encode(), request_id)

    def get(self, path: str) -> Any:
        """What the first one's admin API answers."""
        request = urllib.request.Request(f"{self.front.admin}{path}", headers={"x-sidecar-token": TOKEN})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [it for it in json.loads(self.get("/events"))["events"] if it["kind"] == kind]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("consul")
    app = Server(lambda connection: PLAYS.get(_path(app), fine)(connection))
    with app, ConsulAgent() as consul, ending() as running:
        common: dict[str, Any] = {
            "registry": f"consul://127.0.0.1:{consul.http_port}",
            "admin": {"bind": "127.0.0.1:0", "token": TOKEN},
        }

        def start(name: str) -> Sidecar:
            limited = {"match": {"path": "/limited"}, "rate_limit": {"rate": "1/m", "burst": 1}}
            service = {"name": "shop", "id": "shop-1", "address": "127.0.0.1", "app": app.address}
            shop = {"service": service, "inbound": {"bind": "127.0.0.1:0", "routes": [limited]}, **common}
            running.append(Sidecar(folder, shop, name))
            found = running[-1]
            assert isinstance(found, Sidecar)
            return found.ready()

        shop = start("shop")
        upstreams = {"shop": {"bind": "127.0.0.1:0", "discover": {"service": "shop"}, **OFF}}
        front = Sidecar(folder, {"service": {"name": "front"}, "upstreams": upstreams, **common}, "front")
        running.append(front)
        found = Scene(front.ready(), shop, consul, start)
        wait_for(lambda: found.ask("/", "") == 200, "the shop is found")
        yield found


def _path(app: Server) -> str:
    return app.head.decode("latin-1").split(" ")[1].partition("?")[0]


def test_two_hops(scene: Scene) -> None:
    """What the second one refuses, and what its app does."""
    assert [scene.ask("/limited", f"limited-{number}") for number in range(2)] == [200, 429]
    told = scene.why("limited-1")
    assert (told["service"], told["cause_at"], told["setting"]) == (
        "front",
        "shop",
        "inbound.routes[0].rate_limit.rate",
    )
    assert "in the sidecar of shop: the rate limit of 1 per minute" in told["cause"]
    assert scene.ask("/curt", "curt") == 502
    told = scene.why("curt")
    assert (told["cause_at"], told["hops"][-1]["error"]) == ("shop", "upstream_reset")
    assert "closed the connection before it answered" in told["cause"]
    assert {event["service"] for event in told["events"]} == {"front", "shop"}
    assert MARK not in str(told)


def test_an_instance_drains_while_the_registry_is_away(scene: Scene) -> None:
    """So its callers go on asking it: they are told why it does not answer. Then both come back."""
    before = len(scene.events("registry"))
    scene.consul.kill()
    lost = wait_for(lambda: scene.events("registry")[before:], "the registry is lost")[0]
    assert (lost["level"], lost["details"]["up"]) == ("warning", False)
    assert "what is known stays in use" in lost["text"]
    with socket.create_connection(("127.0.0.1", scene.shop.port("shop")), 60) as upload:
        upload.sendall(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
        scene.shop.popen.terminate()
        numbers = iter(range(10**6))
        late = wait_for(
            lambda: next((name for name in [f"late-{next(numbers)}"] if scene.ask("/", name) == 503), ""), "it drains"
        )
        told = scene.why(late)
        assert (told["cause_at"], told["setting"]) == ("shop", "drain.timeout"), told
        assert "in the sidecar of shop: the sidecar of this instance drains" in told["cause"]
        assert [hop["service"] for hop in told["hops"]] == ["front", "shop"]
        assert "answered draining in place of its app" in told["hops"][0]["cause"]
    assert scene.shop.popen.wait(60) == 0

    changes = len(scene.events("endpoints"))
    scene.consul.start()
    back = wait_for(lambda: scene.events("registry")[before + 1 :], "the registry is back")[-1]
    assert (back["level"], back["details"]["up"]) == ("info", True)
    assert "answers again after" in back["text"]
    # It forgot all it knew; so the instance that is gone stays known until it is back under its id, or for a minute.
    again = scene.start("again")
    address = f"127.0.0.1:{again.port('shop')}"
    change = wait_for(lambda: scene.events("endpoints")[changes:], "another endpoint")[-1]
    assert change["details"] == {"came": [address], "gone": [f"127.0.0.1:{scene.shop.port('shop')}"], "endpoints": 1}
    assert change["upstream"] == "shop"
    wait_for(lambda: scene.ask("/", "") == 200, "the new one is asked")
    for kind in ("registry", "endpoints"):  # each is counted once, and is one line of the log
        told_as = scene.events(kind)
        assert f'sidecar_events_total{{kind="{kind}"}} {len(told_as)}.0' in scene.get("/metrics")
        texts = [event["text"] for event in told_as]
        wait_for(lambda kind=kind, texts=texts: _lines(scene.front, kind) == texts, f"lines about {kind}")  # type: ignore[misc]


def _lines(sidecar: Sidecar, kind: str) -> list[str]:
    lines = [line for line in sidecar.output().splitlines() if f'"event":"{kind}"' in line]
    return [json.loads(line)["msg"] for line in lines]
