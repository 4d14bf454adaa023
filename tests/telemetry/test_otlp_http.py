"""The connection to a collector, which may do anything: answer with too much, too slowly, or with no HTTP at all."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecar.telemetry import otlp_http
from sidecar.telemetry.otlp_http import CollectorClient, CollectorError
from support.patience import PATIENCE

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


def receive(conn: socket.socket) -> bytes:
    """One request, which ends with this body."""
    data = b""
    while not data.endswith(b"[spans]"):
        more = conn.recv(65536)
        if not more:
            raise ConnectionError
        data += more
    return data


@contextmanager
def serving(
    *answers: Callable[[socket.socket], None], first: Callable[[socket.socket], object] = receive
) -> Iterator[str]:
    """A server whose connections are handled by these, one after the other; ``first`` reads the request."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)

        def serve() -> None:
            for answer in answers:
                try:
                    conn, _ = server.accept()
                except OSError:
                    return
                with conn:
                    conn.settimeout(PATIENCE)
                    try:
                        first(conn)
                        answer(conn)
                    except OSError:
                        pass  # the client has had enough

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.close()
            thread.join(PATIENCE)
            assert not thread.is_alive()


def says(data: bytes) -> Callable[[socket.socket], None]:
    return lambda conn: conn.sendall(data)


def post(url: str, seconds: float = PATIENCE, **headers: str) -> otlp_http.Answer:
    client = CollectorClient(url, headers)
    try:
        return client.post(b"[spans]", seconds)
    finally:
        client.close()


def test_a_request_is_what_collectors_expect() -> None:
    heard: list[bytes] = []

    def answer(conn: socket.socket) -> None:
        conn.sendall(OK)

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            conn, _ = server.accept()
            with conn:
                heard.append(receive(conn))
                answer(conn)

        thread = threading.Thread(target=serve)
        thread.start()
        found = post(f"http://127.0.0.1:{server.getsockname()[1]}/base/", authorization="Bearer x")
        thread.join(PATIENCE)
    assert found == (200, None, b"{}")
    head = heard[0].decode().lower()
    assert head.startswith("post /base/v1/traces http/1.1\r\n")
    assert "\r\ncontent-type: application/json\r\n" in head
    assert "\r\nauthorization: bearer x\r\n" in head
    assert "\r\ncontent-length: 7\r\n" in head


def test_a_connection_is_kept_and_made_anew_when_it_was_closed_meanwhile() -> None:
    seen: list[int] = []

    def twice(conn: socket.socket) -> None:
        conn.sendall(OK)
        receive(conn)
        conn.sendall(OK)
        seen.append(2)

    def once(conn: socket.socket) -> None:
        conn.sendall(OK)
        seen.append(1)

    with serving(twice, once) as url:
        client = CollectorClient(url, {})
        assert [client.post(b"[spans]", PATIENCE).status for _ in range(3)] == [200, 200, 200]
        client.close()
    assert seen == [2, 1]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 429 No\r\nretry-after: 3\r\ncontent-length: 0\r\n\r\n", (429, 3.0, b"")),
        (
            b"HTTP/1.1 503 No\r\nretry-after: Wed, 21 Oct 2015 07:28:00 GMT\r\ncontent-length: 0\r\n\r\n",
            (503, None, b""),
        ),
        (b"HTTP/1.1 503 No\r\nretry-after: 99999999999999\r\ncontent-length: 0\r\n\r\n", (503, None, b"")),
        (b"HTTP/1.1 302 Go\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", (302, None, b"")),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", (200, None, b"{}")),
        (b"HTTP/1.0 200 OK\r\n\r\n{}", (200, None, b"{}")),
        (b"HTTP/1.1 204 OK\r\n\r\n", (204, None, b"")),
    ],
)
def test_answers(answer: bytes, expected: tuple[int, float | None, bytes]) -> None:
    with serving(says(answer)) as url:
        assert post(url) == expected


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\1\2\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 banana OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000,
    ],
)
def test_what_is_no_answer_is_an_error(answer: bytes) -> None:
    with serving(says(answer)) as url, pytest.raises(CollectorError):
        post(url)


@pytest.mark.parametrize("length", [10**12, 10**30, 200_000])
def test_an_answer_is_read_up_to_a_bound(length: int) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length
    with serving(says(head + b"x" * 200_000)) as url:
        assert len(post(url).body) <= otlp_http.MOST_ANSWER


def test_a_slow_one_has_no_more_time_for_each_byte() -> None:
    def drip(conn: socket.socket) -> None:
        conn.sendall(b"HTTP/1.1 200 OK\r\nx: ")
        while True:
            conn.sendall(b"y")
            time.sleep(0.005)

    with serving(drip) as url, pytest.raises(CollectorError, match="did not answer in time"):
        post(url, 0.1)


def test_why_it_could_not_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(CollectorError, match="Connection refused"):
        post(f"http://127.0.0.1:{port}")
    with serving(says(b"no TLS here")) as url, pytest.raises(CollectorError):
        post(url.replace("http:", "https:"), 0.3)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_https_with_an_authority_that_this_host_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {key} -out {certificate}"
    subprocess.run([*make.split(), "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"], check=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)

    def talk(conn: socket.socket) -> None:
        with server.wrap_socket(conn, server_side=True) as inner:
            receive(inner)
            inner.sendall(OK)

    with serving(talk, first=lambda conn: None) as url:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert post(url.replace("http:", "https:")).status == 200
    with serving(talk, first=lambda conn: None) as url:
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(CollectorError, match=r"(?i)certificate"):
            post(url.replace("http:", "https:"))


def test_a_resolver_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked, go_on = socket.getaddrinfo, [], threading.Event()

    def hangs(host: str, *rest: Any, **named: Any) -> Any:
        asked.append(host)
        assert go_on.wait(PATIENCE)
        return real("127.0.0.1", *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    with serving(says(OK)) as url:
        client = CollectorClient(url.replace("127.0.0.1", "collector.invalid"), {})
        with pytest.raises(CollectorError, match="still being looked up"):
            client.post(b"[spans]", 0.01)
        for _ in range(3):  # none of these waits for PATIENCE, or asks anew
            with pytest.raises(CollectorError, match="still being looked up"):
                client.post(b"[spans]", 10 * PATIENCE)
        assert asked == ["collector.invalid"]
        go_on.set()
        for thread in threading.enumerate():
            if thread.name == "collector lookup":
                thread.join(PATIENCE)
        assert client.post(b"[spans]", PATIENCE).status == 200  # with what it has found at last
        client.close()
    assert len(asked) == 1


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a..b", "x" * 70])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(CollectorError):
        post(f"http://{name}:4318")


def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    with serving(says(OK)) as url:
        port = int(url.rpartition(":")[2])
        both = [*real("127.0.0.1", closed, type=socket.SOCK_STREAM), *real("127.0.0.1", port, type=socket.SOCK_STREAM)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: both)
        assert post(url).status == 200
