"""Ways in which a request can fail, with what ``sidecar why`` has to tell of each: one upstream for each of them."""

from __future__ import annotations

import json
import os
import resource
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from support.processes import Sidecar, free_port, get, wait_for
from support.scripted import Server

#: What no record may have.
MARK = "XsecretX"
#: Of sidecars that ask each other.
TOKEN = f"{MARK}-of-both"
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


def intact(sidecar: Sidecar) -> AbstractContextManager[None]:
    """Nothing is wrong with the sidecar's own host."""
    return nullcontext()


@contextmanager
def without_descriptors(sidecar: Sidecar) -> Iterator[None]:
    """It has more than it may have, so it gets no other one."""
    _, most = resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE, (8, most))
    try:
        yield
    finally:
        resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def displaced(sidecar: Sidecar) -> Iterator[None]:
    """The folder of its queue is another one's now: what is stored went to where nobody looks for it."""
    config = yaml.safe_load(sidecar.file.read_text())
    folder = Path(config["upstreams"]["doubt"]["queue"]["path"])
    folder.rename(folder.with_name("displaced"))
    folder.write_text("")
    yield


@dataclass
class Case:
    """One way to fail: the upstream's settings, the request, and what must be told of it. ``before``: requests that
    come first, ``first``: one over the same connection, which is answered; ``at_once``: so many of them come together,
    and the one that failed is asked for. ``host`` is what is the matter meanwhile on the sidecar's."""

    name: str
    code: str
    status: int
    setting: str | None
    says: list[str]
    upstream: dict[str, Any] = field(default_factory=dict)
    play: Callable[[socket.socket], None] | None = fine
    request: bytes = b"GET /path?key=XsecretX HTTP/1.1\r\nHost: a\r\nCookie: XsecretX\r\nX-Request-Id: %b\r\n\r\n"
    before: int = 0
    first: bytes = b""
    at_once: int = 1
    host: Callable[[Sidecar], AbstractContextManager[None]] = intact


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
    Case("short", "local_shortage", 503, None, ["Too many open files", "neither short nor the client", "ulimit -n"],
         OFF, first=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", host=without_descriptors),
    Case("doubt", "outcome_unknown", 503, "upstreams.doubt.queue.path", ["the disk failed while the request was being "
         "stored"], {"queue": {"spool": True}, **OFF}, None, request=b"POST / HTTP/1.1\r\nHost: a\r\n"
         b"X-Request-Id: %b\r\nContent-Length: 7\r\n\r\nXsecret", host=displaced),
    Case("faulty", "filter_failed", 500, "upstreams.faulty.filters", ["the filter faulty failed", "traceback"],
         {"filters": [{"use": "faulty"}]}),
]  # fmt: skip


def configuration(folder: Path, servers: dict[str, Server], far: str) -> dict[str, Any]:
    """Of a sidecar with all these upstreams; what it needs on the disk is in the folder."""
    upstreams = {}
    for case in CASES:
        found: dict[str, Any] = {"bind": "127.0.0.1:0", **case.upstream}
        if "queue" in found:
            found["queue"] = {**found["queue"], "path": str(folder / "queue")}
        if "discover" not in found and "endpoints" not in found:
            address = servers[case.name].address if case.name in servers else f"127.0.0.1:{free_port()}"
            found["endpoints"] = [far if case.name == "far" else address]
        upstreams[case.name] = found
    return {"service": {"name": "edge"}, "registry": f"directory://{folder / 'registry'}", "upstreams": upstreams}


def install(folder: Path) -> dict[str, str]:
    """A package with a filter that fails; the environment of a process that finds it."""
    package = folder / "packages"
    information = package / "faulty-1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[sidecar.filters]\nfaulty = faulty:Faulty\n")
    (package / "faulty.py").write_text(_FAULTY)
    return {"PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}


_FAULTY = """from sidecar.exchange.filter import Filter


class Faulty(Filter):
    name = "faulty"

    def on_request(self, x):
        raise ValueError("XsecretX")
"""


def send(
    port: int,
    request: bytes,
    request_id: str,
    host: AbstractContextManager[None] | None = None,
    first: bytes = b"",
) -> int:
    """The status of its answer. ``host`` is in force while it is asked for, over a connection that is there already,
    and over which ``first`` has been answered."""
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        client.settimeout(30)
        if first:
            client.sendall(first)
            assert _until(client, b"ok").startswith(b"HTTP/1.1 200")
        with host or nullcontext():
            client.sendall(request % request_id.encode() if b"%b" in request else request)
            return int(_until(client, b"\r\n\r\n")[9:12] or b"0")


def _until(client: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        more = client.recv(65536)
        if not more:
            break
        data += more
    return data


def fail(case: Case, sidecar: Sidecar) -> str:
    """Bring the failure about; the id of the request that failed."""
    port = sidecar.port(case.name)
    for number in range(case.before):
        send(port, case.request, f"{case.name}-before-{number}")
    names = [f"{case.name}-{number}" for number in range(case.at_once)]

    def one(name: str) -> tuple[int, str]:
        return send(port, case.request, name, case.host(sidecar), case.first), name

    with ThreadPoolExecutor(len(names)) as pool:
        found = list(pool.map(one, names))
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
        return send(port, case.request, request_id, case.host(self.sidecar), case.first)


@dataclass
class Mesh:
    """Two sidecars that have the same token: the first asks the second."""

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
