"""The program that a container engine asks for the sidecar's health: compiled here, and run against real sockets."""

from __future__ import annotations

import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest

from support.fake_admin import fake_admin
from support.processes import ROOT, free_port, missing

SOURCE = ROOT / "images" / "probe.c"
READY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe, compiled as for the image."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        missing("no C compiler is installed: apt-get install gcc libc6-dev")
    found = tmp_path_factory.mktemp("probe") / "sidecar-probe"
    subprocess.run(
        [compiler, "-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o", found, SOURCE], check=True, timeout=60
    )
    return found


def ask(program: Path, admin: str | None, *arguments: str, token: str = "") -> tuple[int, str]:
    """The probe's exit code, and what it says."""
    environment = {} if admin is None else {"SIDECAR_ADMIN": admin}
    if token:
        environment["SIDECAR_ADMIN_TOKEN"] = token
    ran = subprocess.run(
        [program, *arguments], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert ran.stdout == ""
    return ran.returncode, ran.stderr


@contextmanager
def answering(answer: bytes, host: str = "127.0.0.1") -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers the first connection with these bytes, two at a time; its port, and what it was asked."""
    asked: list[bytes] = []
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client, suppress(ConnectionError):  # it leaves as soon as it has seen enough
                asked.append(client.recv(4096))
                for start in range(0, len(answer), 2):
                    client.sendall(answer[start : start + 2])

        thread = Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], asked
        thread.join(30)


@pytest.mark.parametrize("form", ["http://127.0.0.1:{}", "127.0.0.1:{}", "http://127.0.0.1:{}/", "localhost:{}"])
def test_a_sidecar_that_is_ready(program: Path, form: str) -> None:
    with answering(READY) as (port, asked):
        assert ask(program, form.format(port)) == (0, "")
    host = form.removeprefix("http://").partition(":")[0].encode()
    assert asked == [b"GET /ready HTTP/1.1\r\nhost: " + host + b"\r\nconnection: close\r\n\r\n"]


def test_over_ipv6(program: Path) -> None:
    with answering(READY, "::1") as (port, _):
        assert ask(program, f"http://[::1]:{port}") == (0, "")


def test_another_path_and_what_is_not_200(program: Path) -> None:
    with fake_admin({"ready": (503, {"phase": "starting"}), "health": (200, {})}) as url:
        assert ask(program, url) == (1, f"sidecar-probe: {url}: answers 503\n")
        assert ask(program, url, "/health") == (0, "")
        assert ask(program, url, "/nowhere") == (1, f"sidecar-probe: {url}: answers 404\n")


def test_nobody_there(program: Path) -> None:
    admin = f"127.0.0.1:{free_port()}"
    assert ask(program, admin) == (1, f"sidecar-probe: {admin}: Connection refused\n")


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 2", b"SSH-2.0-OpenSSH_9.2 something\r\n", b"HTTP/1.1 2x0 OK\r\n\r\n", b"\0" * 100]
)
def test_what_answers_is_something_else(program: Path, answer: bytes) -> None:
    with answering(answer) as (port, _):
        code, said = ask(program, f"127.0.0.1:{port}")
    assert code == 1
    assert said.endswith(("what answers is not an admin API\n", "Connection reset by peer\n"))


@pytest.mark.parametrize(
    "admin", ["https://127.0.0.1:15000", "http://", "http://:15000", "127.0.0.1:", "127.0.0.1:web", "[::1",
              "[::1]15000", "http://127.0.0.1:15000/admin", "[]:1"],
)  # fmt: skip
def test_no_url_of_an_admin_api(program: Path, admin: str) -> None:
    code, said = ask(program, admin)
    assert code == 1
    assert said == (f"sidecar-probe: {admin}: not the URL of an admin API; one looks like http://127.0.0.1:15000\n")


def test_names_that_are_not_known_and_paths_that_are_too_long(program: Path) -> None:
    code, said = ask(program, "http://a.invalid:1")
    assert code == 1
    assert said.startswith("sidecar-probe: http://a.invalid:1: ")
    with fake_admin({}) as url:
        assert ask(program, url, "/" + 2000 * "x")[0] == 1


def test_without_the_variable_it_asks_where_the_admin_api_is_by_default(program: Path) -> None:
    for admin in (None, ""):
        code, said = ask(program, admin, "/no-such-path")
        assert code == 1
        assert said.startswith("sidecar-probe: http://127.0.0.1:15000: ")


def test_who_never_answers_is_not_waited_for(program: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code, said = ask(program, f"127.0.0.1:{server.getsockname()[1]}")
    assert (code, said) == (1, "sidecar-probe: no answer in time\n")


def test_what_it_costs(program: Path) -> None:
    with fake_admin({"ready": (200, {})}) as url:
        spent = []
        for _ in range(10):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert ask(program, url) == (0, "")
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.020, spent


@pytest.mark.parametrize("token", ["", "s3cret"])
def test_it_has_what_comes_in_drained(program: Path, token: str) -> None:
    with answering(READY) as (port, asked):
        assert ask(program, f"127.0.0.1:{port}", "drain", token=token) == (0, "")
    known = f"authorization: Bearer {token}\r\n" if token else ""
    assert asked == [f"POST /drain?wait=1 HTTP/1.1\r\nhost: 127.0.0.1\r\n{known}connection: close\r\n\r\n".encode()]


def test_a_drain_that_fails_keeps_no_app_from_ending(program: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    assert ask(program, nobody, "drain") == (0, f"sidecar-probe: {nobody}: Connection refused\n")
    with fake_admin({"POST /drain?wait=1": (401, {})}) as url:
        assert ask(program, url, "drain") == (0, f"sidecar-probe: {url}: answers 401\n")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        admin = f"127.0.0.1:{silent.getsockname()[1]}"
        assert ask(program, admin, "drain", "1") == (0, "sidecar-probe: no answer in time\n")


def test_a_token_is_for_the_drain_alone(program: Path) -> None:
    with answering(READY) as (port, asked):
        assert ask(program, f"127.0.0.1:{port}", token="s3cret") == (0, "")
    assert b"s3cret" not in asked[0]
