"""``GET /why/{id}`` of real sidecars: for each code of the error table, the cause and the setting that would change it.

One sidecar has an upstream for each way to fail, and is asked for each of them; so all of it takes two processes and a
few seconds.
"""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.main import main
from support.processes import Sidecar, ending, free_port, get, wait_for
from support.scripted import Server
from support.silent import Silent

#: What no record may have.
MARK = "XsecretX"
OFF = {"retry": "off", "circuit_breaker": "off"}


def fine(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


def silent(connection: socket.socket) -> None:
    connection.recv(1)  # until the other side has had enough


def odd(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


def curt(connection: socket.socket) -> None:
    """Closes before it answers."""


def whole(connection: socket.socket) -> None:
    """Answers nothing before the other side is gone: an upload that stays half is under way until then."""
    while connection.recv(65536):
        pass


def bad(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@dataclass
class Case:
    """One way to fail: the upstream's settings, the request, and what must be told of it. ``before``: requests that
    come first; ``at_once``: so many of them come together, and the one that failed is asked for."""

    name: str
    code: str
    status: int
    setting: str | None
    says: list[str]
    upstream: dict[str, Any] = field(default_factory=dict)
    play: Callable[[socket.socket], None] | None = fine
    request: bytes = b"GET /path?key=XsecretX HTTP/1.1\r\nHost: a\r\nCookie: XsecretX\r\nX-Request-Id: %b\r\n\r\n"
    before: int = 0
    at_once: int = 1


CASES = [
    Case("malformed", "bad_request", 400, None, ["malformed", "a header name"], request=b"GET / HTTP/1.1\r\n"
         b"X-Request-Id: %b\r\nHost: a\r\nBad Name: XsecretX\r\n\r\n"),
    Case("bighead", "headers_too_large", 431, "upstreams.bighead.limits.head", ["larger than 300 bytes"],
         {"limits": {"head": "300B"}}, request=b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: %b\r\nX-A: "
         + b"x" * 400 + b"\r\n\r\n"),
    Case("bigbody", "body_too_large", 413, "upstreams.bigbody.limits.body", ["larger than 10 bytes"],
         {"limits": {"body": "10B"}}, request=b"POST / HTTP/1.1\r\nHost: a\r\nX-Request-Id: %b\r\n"
         b"Content-Length: 20\r\n\r\nXsecretXXsecretXxxxx"),
    Case("often", "rate_limited", 429, "upstreams.often.rate_limit.rate", ["1 per minute (burst 1)"],
         {"rate_limit": {"rate": "1/m", "burst": 1}}, before=1),
    Case("nobody", "no_endpoints", 503, "upstreams.nobody.discover.service",
         ["directory:", "no healthy instance of nobody"], {"discover": {"service": "nobody"}}, None),
    Case("nameless", "no_endpoints", 503, "upstreams.nameless.endpoints", ["no-such-host.invalid"],
         {"endpoints": ["no-such-host.invalid:80"]}, None),
    Case("broken", "circuit_open", 503, "upstreams.broken.circuit_breaker.reset_timeout",
         ["2 calls in a row failed", "the last because 127.0.0.1", "answered 500", "tries again in"],
         {"circuit_breaker": {"failure_threshold": 2}, "retry": "off"}, bad, before=2),
    Case("busy", "overloaded", 503, "upstreams.busy.bulkhead.max_requests",
         ["1 requests were in progress", "no place left"],
         {"bulkhead": {"max_requests": 1, "max_pending": 0}, "timeout": {"request": "500ms"}, **OFF}, silent,
         at_once=2),
    Case("crowd", "overloaded", 503, "upstreams.crowd.bulkhead.pending_timeout", ["waited 100 ms"],
         {"bulkhead": {"max_requests": 1, "pending_timeout": "100ms"}, "timeout": {"request": "1s"}, **OFF}, silent,
         at_once=2),
    Case("gone", "connect_failed", 502, "upstreams.gone.endpoints",
         ["refused the connection", "all 2 tries were used (upstreams.gone.retry.max_attempts)"],
         {"retry": {"max_attempts": 2, "initial_delay": "10ms", "max_delay": "10ms"}}, None),
    Case("far", "connect_timeout", 504, "upstreams.far.timeout.connect", ["within 200 ms"],
         {"timeout": {"connect": "200ms"}, **OFF}, None),
    Case("slow", "timeout", 504, "upstreams.slow.timeout.request", ["gave no answer within the 200 ms"],
         {"timeout": {"request": "200ms"}, **OFF}, silent),
    Case("patience", "timeout", 504, "upstreams.patience.circuit_breaker.timeout_duration", ["within the 200 ms"],
         {"circuit_breaker": {"timeout_duration": "200ms"}, "retry": "off"}, silent),
    Case("upload", "timeout", 504, "upstreams.upload.timeout.request", ["nothing more of its body", "4 bytes"],
         {"timeout": {"request": "200ms"}, **OFF}, silent, request=b"POST / HTTP/1.1\r\nHost: a\r\n"
         b"X-Request-Id: %b\r\nContent-Length: 20\r\n\r\nXsec"),
    Case("curt", "upstream_reset", 502, "upstreams.curt.retry.methods",
         ["closed the connection before it answered", "POST is not tried again"], {}, curt,
         request=b"POST / HTTP/1.1\r\nHost: a\r\nX-Request-Id: %b\r\nContent-Length: 1\r\n\r\nx"),
    Case("odd", "bad_upstream", 502, "upstreams.odd.protocol", ["cannot be used"], OFF, odd),
]  # fmt: skip


def configuration(cases: list[Case], servers: dict[str, Server], far: str, registry: Path) -> dict[str, Any]:
    upstreams = {}
    for case in cases:
        found: dict[str, Any] = {"bind": "127.0.0.1:0", **case.upstream}
        if "discover" not in found and "endpoints" not in found:
            address = servers[case.name].address if case.name in servers else f"127.0.0.1:{free_port()}"
            found["endpoints"] = [far if case.name == "far" else address]
        upstreams[case.name] = found
    return {"service": {"name": "edge"}, "registry": f"directory://{registry}", "upstreams": upstreams}


def send(port: int, request: bytes, request_id: str) -> int:
    """The status of its answer."""
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        client.settimeout(30)
        client.sendall(request % request_id.encode() if b"%b" in request else request)
        data = b""
        while b"\r\n\r\n" not in data:
            more = client.recv(65536)
            if not more:
                break
            data += more
        return int(data[9:12] or b"0")


def fail(case: Case, port: int) -> str:
    """Bring the failure about; the id of the request that failed."""
    for number in range(case.before):
        send(port, case.request, f"{case.name}-before-{number}")
    names = [f"{case.name}-{number}" for number in range(case.at_once)]
    with ThreadPoolExecutor(len(names)) as pool:
        found = list(pool.map(lambda name: (send(port, case.request, name), name), names))
    failed: list[str] = [name for status, name in found if status == case.status]
    assert failed, found
    return failed[0]


def why(admin: str, request_id: str) -> dict[str, Any]:
    """What is told of a request that is over, or about to be."""
    status, told = wait_for(
        lambda: (found := get(f"{admin}/why/{request_id}"))[0] == 200 and found, f"the story of {request_id}"
    )
    assert status == 200
    assert isinstance(told, dict)
    return told


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
    config = configuration(CASES, servers, f"127.0.0.1:{far.port}", folder / "registry")
    with closing(far), ending(Sidecar(folder, config)) as running:
        sidecar = running[0]
        assert isinstance(sidecar, Sidecar)
        yield sidecar.ready()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_code(case: Case, edge: Sidecar) -> None:
    request_id = fail(case, edge.port(case.name))
    told = why(edge.admin, request_id)
    assert (told["request_id"], told["error"], told["upstream"]) == (request_id, case.code, case.name)
    assert told["setting"] == case.setting, told
    assert [part for part in case.says if part not in told["cause"]] == [], told["cause"]
    at = [event["at_ms"] for event in told["events"]]
    assert at == sorted(at)
    assert told["events"], told


def test_what_there_is(edge: Sidecar) -> None:
    """The list, its filters, an unknown id; and none of the marked secrets is anywhere."""
    fail(CASES[0], edge.port("malformed"))
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
    request_id = fail(case, edge.port("gone"))
    assert main(["why", request_id, "--admin", edge.admin]) == 0
    told = capsys.readouterr().out
    assert told.startswith("502 connect_failed  GET /path to gone")
    assert "setting  upstreams.gone.endpoints" in told
    assert "attempt" in told
    assert main(["why", "--admin", edge.admin, "--upstream", "gone"]) == 0
    assert request_id in capsys.readouterr().out
    assert main(["why", "unheard-of", "--admin", edge.admin]) == 1
    assert "nothing is known of the request 'unheard-of'" in capsys.readouterr().err


# -- over two hops -----------------------------------------------------------------------------------------------------

TOKEN = "XsecretX-of-both"
_NAMES = {case.name for case in CASES}


class Shop:
    """The app behind the second sidecar: asked for ``/NAME``, it asks its own sidecar's upstream of that name, in the
    way of that case and with the id that it was asked with, and answers with the status that it got."""

    def __init__(self, servers: dict[str, Server]) -> None:
        self._servers = servers
        self.sidecar: Sidecar | None = None
        self.server = Server(self._play)

    def _play(self, connection: socket.socket) -> None:
        head = self.server.head.decode("latin-1")
        name = head.split(" ")[1].partition("?")[0].strip("/")
        request_id = head.lower().partition("x-request-id: ")[2].partition("\r\n")[0]
        status = self._ask(name, request_id) if name in _NAMES else 200
        answer = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        connection.sendall(answer.encode())

    def _ask(self, name: str, request_id: str) -> int:
        case = next(case for case in CASES if case.name == name)
        assert self.sidecar is not None
        port = self.sidecar.port(name)
        for number in range(case.before):
            send(port, case.request, f"{name}-first-{number}")
        if case.at_once > 1:
            taken = self._servers[name].taken
            threading.Thread(target=send, args=(port, case.request, f"{name}-beside"), daemon=True).start()
            wait_for(lambda: self._servers[name].taken > taken, "the other one is under way")
        return send(port, case.request, request_id)


@dataclass
class Mesh:
    """Two sidecars that find each other by a folder."""

    front: Sidecar
    shop: Sidecar

    def why(self, request_id: str, sidecar: Sidecar | None = None) -> dict[str, Any]:
        """What is told of a request at the first sidecar, once the second one has told its part."""
        request = urllib.request.Request(f"{(sidecar or self.front).admin}/why/{request_id}")
        request.add_header("x-sidecar-token", TOKEN)

        def ask() -> dict[str, Any] | None:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    told: dict[str, Any] = json.load(answer)
            except urllib.error.HTTPError as error:
                error.close()
                return None
            return None if any("did not answer" in hop.get("problem", "") for hop in told["hops"]) else told

        return wait_for(ask, f"the story of {request_id}")  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def mesh(servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("mesh")
    far = Silent("127.0.0.1")
    app = Shop(servers)
    admin = {"bind": "127.0.0.1:0", "token": TOKEN}
    config = configuration(CASES, servers, f"127.0.0.1:{far.port}", folder / "registry")
    config |= {
        "service": {"name": "shop", "address": "127.0.0.1", "app": app.server.address, "check": {"interval": "1s"}},
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
    with closing(far), ending(Sidecar(folder, config, "shop"), Sidecar(folder, front, "front")) as running:
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
    assert TOKEN not in str(mesh.why("two-gone"))


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
