"""``GET /why/{id}`` of real sidecars: for each code of the error table, the cause and the setting that would change it.

One sidecar has an upstream for each way to fail, and is asked for each of them; so all of it takes two processes and a
few seconds.
"""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.main import main
from support.failing import (
    CASES,
    MARK,
    OFF,
    TOKEN,
    Case,
    Mesh,
    Shop,
    configuration,
    fail,
    fine,
    install,
    send,
    whole,
    why,
)
from support.processes import Sidecar, ending, get, wait_for
from support.scripted import Server
from support.silent import Silent


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    found = {case.name: Server(case.play) for case in CASES if case.play is not None}
    yield found
    for server in found.values():
        server.stop()


@pytest.fixture(scope="module")
def edge(servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    folder = tmp_path_factory.mktemp("why")
    far = Silent("127.0.0.1")
    config = configuration(folder, servers, f"127.0.0.1:{far.port}")
    with closing(far), ending(Sidecar(folder, config, env=install(folder))) as running:
        sidecar = running[0]
        assert isinstance(sidecar, Sidecar)
        yield sidecar.ready()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_code(case: Case, edge: Sidecar) -> None:
    request_id = fail(case, edge)
    told = why(edge.admin, request_id)
    assert (told["request_id"], told["error"], told["upstream"]) == (request_id, case.code, case.name)
    assert told["setting"] == case.setting, told
    assert [part for part in case.says if part not in told["cause"]] == [], told["cause"]
    at = [event["at_ms"] for event in told["events"]]
    assert at == sorted(at)
    assert told["events"], told


def test_what_there_is(edge: Sidecar) -> None:
    """The list, its filters, an unknown id; and none of the marked secrets is anywhere."""
    fail(CASES[0], edge)
    status, everything = get(f"{edge.admin}/why?limit=1000")
    assert status == 200
    assert MARK not in str(everything)
    for line in everything["requests"]:
        assert MARK not in str(get(f"{edge.admin}/why/{line['request_id']}"))
    _, refused = get(f"{edge.admin}/why?upstream=malformed&error=bad_request")
    assert {line["error"] for line in refused["requests"]} == {"bad_request"}
    status, unknown = get(f"{edge.admin}/why/no-such-request")
    assert status == 404
    assert "why.records" in unknown["message"]
    assert get(f"{edge.admin}/why?limit=0")[0] == 400


def test_the_command(edge: Sidecar, capsys: pytest.CaptureFixture[str]) -> None:
    case = next(case for case in CASES if case.name == "gone")
    request_id = fail(case, edge)
    assert main(["why", request_id, "--admin", edge.admin]) == 0
    told = capsys.readouterr().out
    assert told.startswith("502 connect_failed  GET /path to gone")
    assert "setting  upstreams.gone.endpoints" in told
    assert "attempt" in told
    assert main(["why", "--admin", edge.admin, "--upstream", "gone"]) == 0
    assert request_id in capsys.readouterr().out
    assert main(["why", "unheard-of", "--admin", edge.admin]) == 1
    said = capsys.readouterr().err
    assert "nothing is known of the request 'unheard-of'" in said
    assert "the sidecar's own answers have it in that header" in said, "those of an app have none"


# -- over two hops -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mesh(servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("mesh")
    far = Silent("127.0.0.1")
    app = Shop(servers)
    admin = {"bind": "127.0.0.1:0", "token": TOKEN}
    config = configuration(folder, servers, f"127.0.0.1:{far.port}")
    config |= {
        "service": {"name": "shop", "address": "127.0.0.1", "app": app.server.address, "check": {"interval": "1h"}},
        "inbound": {
            "bind": "127.0.0.1:0",
            "routes": [{"match": {"path": "/limited"}, "rate_limit": {"rate": "1/m", "burst": 1}}],
        },
        "admin": admin,
    }
    front = {
        "service": {"name": "front"},
        "registry": config["registry"],
        "upstreams": {"shop": {"bind": "127.0.0.1:0", **OFF}},
        "admin": admin,
        "why": {"sample": "100%"},
    }
    with (
        closing(far),
        ending(Sidecar(folder, config, "shop", install(folder)), Sidecar(folder, front, "front")) as running,
    ):
        shop, edge = running
        assert isinstance(shop, Sidecar)
        assert isinstance(edge, Sidecar)
        app.sidecar = shop.ready()
        port = edge.ready().port("shop")
        wait_for(lambda: send(port, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", "") == 200, "shop is found")
        yield Mesh(edge, shop)
    app.server.stop()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_code_over_two_hops(case: Case, mesh: Mesh) -> None:
    request = f"GET /{case.name}?key={MARK} HTTP/1.1\r\nHost: a\r\nX-Request-Id: %b\r\n\r\n"
    request_id = f"two-{case.name}"
    assert send(mesh.front.port("shop"), request.encode(), request_id) == case.status
    told = mesh.why(request_id)
    assert (told["service"], told["upstream"], told["cause_at"]) == ("front", "shop", "shop"), told
    assert told["setting"] == case.setting, told
    assert told["cause"].startswith("in the sidecar of shop: ")
    assert [part for part in case.says if part not in told["cause"]] == [], told["cause"]
    assert {event["service"] for event in told["events"]} == {"front", "shop"}
    assert told["hops"][-1]["error"] == case.code
    assert MARK not in str(told)


def test_what_the_next_sidecar_refuses_itself(mesh: Mesh) -> None:
    """Its code is believed, and its own setting is named: of the route that has the policy for itself."""
    request = b"GET /limited HTTP/1.1\r\nHost: a\r\nX-Request-Id: %b\r\n\r\n"
    send(mesh.front.port("shop"), request, "limited-1")
    assert send(mesh.front.port("shop"), request, "limited-2") == 429
    told = mesh.why("limited-2")
    assert told["setting"] == "inbound.routes[0].rate_limit.rate"
    assert "in the sidecar of shop: the rate limit of 1 per minute" in told["cause"]
    first, second = told["hops"]
    assert "answered rate_limited in place of its app" in first["cause"]
    assert (second["service"], second["error"]) == ("shop", "rate_limited")


def test_the_token_is_needed_and_never_told(mesh: Mesh) -> None:
    assert get(f"{mesh.shop.admin}/why")[0] == 401
    assert get(f"{mesh.shop.admin}/why/x")[0] == 401
    request = f"GET /gone?key={MARK} HTTP/1.1\r\nHost: a\r\nX-Request-Id: %b\r\n\r\n"
    send(mesh.front.port("shop"), request.encode(), "no-token")
    assert TOKEN not in str(mesh.why("no-token"))


def test_draining(tmp_path: Path) -> None:
    """Of a sidecar that waits for the end of an upload: asked for by itself, as nobody finds it any more."""
    app = Server(lambda connection: (whole if app.head.startswith(b"POST") else fine)(connection))
    config = {
        "service": {"name": "leaving", "app": app.address, "address": "127.0.0.1"},
        "inbound": {"bind": "127.0.0.1:0"},
    }
    with ending(Sidecar(tmp_path, config)) as running:
        sidecar = running[0]
        assert isinstance(sidecar, Sidecar)
        port = sidecar.ready().port("leaving")
        with socket.create_connection(("127.0.0.1", port), 30) as upload:
            upload.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
            wait_for(lambda: app.taken > 0, "the upload is under way")
            sidecar.popen.terminate()
            request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: %b\r\n\r\n"
            wait_for(lambda: send(port, request, "late") == 503, "it drains")
            told = why(sidecar.admin, "late")
    app.stop()
    assert (told["error"], told["setting"], told["direction"]) == ("draining", "drain.timeout", "inbound")
    assert "this instance drains" in told["cause"]


def test_settings_apply_while_it_runs(tmp_path: Path) -> None:
    """None is remembered, then all are."""
    app = Server(fine)
    config: dict[str, Any] = {
        "service": {"name": "web"},
        "upstreams": {"up": {"bind": "127.0.0.1:0", "endpoints": [app.address]}},
        "why": {"records": 0},
    }
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: %b\r\n\r\n"
    with ending(Sidecar(tmp_path, config)) as running:
        sidecar = running[0]
        assert isinstance(sidecar, Sidecar)
        port = sidecar.ready().port("up")
        assert send(port, request, "one") == 200
        status, found = get(f"{sidecar.admin}/why/one")
        assert (status, "why.records is 0" in found["message"]) == (404, True)
        text = sidecar.file.read_text().replace("records: 0", "records: 10\n  sample: 1")
        sidecar.file.write_text(text)
        reload = urllib.request.Request(f"{sidecar.admin}/reload", b"", method="POST")
        with urllib.request.urlopen(reload, timeout=30) as answer:
            assert json.load(answer)["changes"] == ["why: changed"]
        assert send(port, request, "two") == 200
        told = why(sidecar.admin, "two")
        assert told["cause"].startswith("it was answered 200 after")
        assert told["setting"] is None
    app.stop()
