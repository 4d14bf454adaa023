"""Odd messages through a real sidecar, beside nginx and HAProxy: what has one reading is delivered, as at least one of
them does; what has two goes no further."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import Process, Sidecar, ending, free_port, missing, wait_for
from support.scripted import Server

OK = b"Content-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked"

#: Name → the answer of the upstream, and whether it is delivered.
ANSWERS = {
    "length twice": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + OK, True),
    "chunk extension, long": (CHUNKED + b"2;%b\r\nok\r\n0\r\n\r\n" % (b"x" * 3000), True),
    "chunk extension, UTF-8": (CHUNKED + "2;ü\r\nok\r\n0\r\n\r\n".encode(), True),
    "chunk size, spaces": (CHUNKED + b"2  \r\nok\r\n0\r\n\r\n", True),
    "chunk size, zeros": (CHUNKED + b"0000002\r\nok\r\n0\r\n\r\n", True),
    "204 with a length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", True),
    "lengths differ": (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n" + OK, False),
    "both framings": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + OK, False),
    "NUL": (b"HTTP/1.1 200 OK\r\nX: \0\r\n" + OK, False),
}  # fmt: skip
#: Name → a request, and whether it is delivered.
REQUESTS = {
    "URL, default port": (b"GET http://shop.test:80/ HTTP/1.1\r\nHost: shop.test\r\n\r\n", True),
    "Host, default port": (b"GET http://shop.test/ HTTP/1.1\r\nHost: shop.test:80\r\n\r\n", True),
    "empty Host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", True),
    "another host": (b"GET http://a.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n", False),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", False),
    "CONNECT": (b"CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n", False),
    "coding, tab": (POST + b"\t\r\n\r\n0\r\n\r\n", False),
    "chunk extension, malformed": (POST + b"\r\n\r\n0;=\r\n\r\n", False),
}  # fmt: skip


class Upstream(Server):
    """Answers every connection with ``answer``, whatever it was asked."""

    answer = b""

    def __init__(self) -> None:
        super().__init__(lambda connection: connection.sendall(self.answer))


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


def _status(port: int, request: bytes) -> int:
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.settimeout(20)
        client.sendall(request.replace(b"Host:", b"Connection: close\r\nHost:", 1))
        data = b""
        while more := client.recv(65536):
            data += more
            if len(data) >= 12:
                break
        return int(data[9:12] or b"0")


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_verdicts(upstream: Upstream, tmp_path: Path) -> None:
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    haproxy = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if nginx is None or haproxy is None:
        missing("there is no nginx or no haproxy: install the packages nginx-light and haproxy")
    ports = {"sidecar": free_port(), "nginx": free_port(), "haproxy": free_port()}
    target = f"127.0.0.1:{upstream.port}"
    folders = "".join(
        f"{kind}_temp_path {tmp_path}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/nginx.pid; error_log {tmp_path}/nginx.err; events {{}}\n"
        f"http {{ access_log off; {folders}\n server {{ listen 127.0.0.1:{ports['nginx']}; "
        f"location / {{ proxy_pass http://{target}; proxy_http_version 1.1; }} }} }}\n"
    )
    (tmp_path / "haproxy.cfg").write_text(
        "defaults\n mode http\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n"
        f"frontend f\n bind 127.0.0.1:{ports['haproxy']}\n default_backend b\nbackend b\n server s {target}\n"
    )
    config = {
        "service": {"name": "t"}, "admin": {"bind": f"127.0.0.1:{free_port()}"},
        "upstreams": {
            "up": {
                "bind": f"127.0.0.1:{ports['sidecar']}", "endpoints": [target],
                "retry": "off", "circuit_breaker": "off",
            }
        },
    }  # fmt: skip
    with ending(
        Process([nginx, "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)], tmp_path / "nginx.log"),
        Process([haproxy, "-f", str(tmp_path / "haproxy.cfg"), "-db"], tmp_path / "haproxy.log"),
        Sidecar(tmp_path, config).ready(),
    ):
        for name, port in ports.items():
            wait_for(lambda port=port: _accepts(port), f"{name} accepts connections")  # type: ignore[misc]
        for what, (answer, good) in ANSWERS.items():
            upstream.answer = answer
            _compare(what, ports, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", good)
        upstream.answer = b"HTTP/1.1 200 OK\r\n" + OK
        for what, (request, good) in REQUESTS.items():
            _compare(what, ports, request, good)


def _compare(what: str, ports: dict[str, int], request: bytes, good: bool) -> None:
    seen = {name: _status(port, request) for name, port in ports.items()}
    assert (200 <= seen["sidecar"] < 300) is good, (what, seen)
    if good:
        assert any(200 <= seen[name] < 300 for name in ("nginx", "haproxy")), (what, seen)
    else:
        assert seen["sidecar"] in (400, 502), (what, seen)
