"""``sidecar spool``, on a running sidecar's admin API and on a stopped one's files."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sidecar.amqp.spool.database import Database
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.spool.transaction import NewDeadLetter, Transaction
from sidecar.amqp.views import operations
from sidecar.cli.main import main
from sidecar.cli.spool.text import age, letter_lines, list_lines
from sidecar.config.agent import Admin
from sidecar.core.address import Address
from sidecar.core.secret import Secret
from support.admin import serving
from support.fake_spool import FakeSpool, damaged, letter, message
from support.processes import ROOT, free_port
from support.running import FakeRunning, FakeUpstream, running

Capsys = pytest.CaptureFixture[str]


def broker(*names: str) -> tuple[FakeRunning, FakeSpool]:
    """A sidecar with spools; the first one's, which has a few dead letters."""
    it = running("ollama")
    for name in names or ("rabbitmq",):
        it.upstreams[name] = upstream = FakeUpstream(name, protocol="amqp")
        assert upstream.amqp is not None
        upstream.amqp.spool = FakeSpool()
    spool = it.upstreams[(names or ("rabbitmq",))[0]].amqp.spool  # type: ignore[union-attr]
    assert spool is not None
    died = time.time() - 125
    spool.dead_letters.add(
        letter(3, reason="access_refused", code=403, died=died),
        letter(4, message(b"\x00\xff" * 700, exchange="", routing_key="tasks", origin=""), died=died - 7200),
        letter(7, reason="expired", died=died),
        damaged(8, died=died),
    )
    return it, spool


@contextmanager
def sidecar(of: FakeRunning) -> Iterator[str]:
    """Its admin API's URL. It runs in a thread, as the command is one for itself."""
    begun, url = threading.Event(), ""
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        nonlocal url
        async with serving(of) as client:
            url = f"http://{client.address[0]}:{client.address[1]}"
            begun.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert begun.wait(60)
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def run(*arguments: str) -> int:
    return main(["spool", *arguments])


class Terminal(io.StringIO):
    """Somebody who types that."""

    def isatty(self) -> bool:
        return True


# -- usage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "list", "show", "replay", "drop", "export"])
def test_each_command_has_help(command: str, capsys: Capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        run(command, "--help")
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "--admin" in out
    assert ("--path" in out) is (command != "replay")


def test_replay_is_not_for_files_and_says_so(capsys: Capsys) -> None:
    with pytest.raises(SystemExit):
        run("replay", "--all", "--path", "/tmp")
    assert "argument --path: what is to be delivered needs a sidecar that runs" in capsys.readouterr().err


def test_help_teaches(capsys: Capsys) -> None:
    with pytest.raises(SystemExit):
        run("--help")
    out = capsys.readouterr().out
    for word in ("dead letter", "examples:", "replay", "export >", "--path", "exit codes"):
        assert word in out
    assert run() == 2
    assert "usage: sidecar spool" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["show"], ["show", "x"], ["show", "-1"], ["list", "--limit", "0"], ["list", "--limit", "1001"],
     ["list", "--after", "x"], ["replay"], ["drop"], ["drop", "3", "--all"], ["replay", "3", "--reason", "expired"],
     ["replay", "3", "--path", "/tmp"], ["list", "--path", "/tmp", "--admin", "http://127.0.0.1:1"], ["lst"]],
)  # fmt: skip
def test_wrong_usage(arguments: list[str], capsys: Capsys) -> None:
    try:
        code: Any = run(*arguments)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err


# -- a running sidecar -------------------------------------------------------------------------------------------------


def test_status(capsys: Capsys) -> None:
    it, spool = broker()
    spool.key("exchange ai.tasks", 1200, 267_000)
    spool.spooled, spool.replayed, spool.expired, spool.corrupt = 1300, 57, 3, 1
    spool.acks = {"broker": 120, "spool": 1300}
    with sidecar(it) as url:
        assert run("status", "--admin", url) == 0
    size = f"{spool.dead_letters.bytes / 1024:.1f} KiB"
    assert capsys.readouterr().out == (
        "spool     rabbitmq\n"
        "state     fine\n"
        "waiting   1200 messages, 261 KiB of 1.0 GiB\n"
        "so far    1300 spooled, 57 replayed, 3 expired\n"
        "acks      120 by the broker, 1300 by the spool\n"
        "corrupt   1 message could not be read again\n"
        f"dead      4 dead letters, {size}\n"
        "\n"
        "WAITING FOR        VHOST  MESSAGES     SIZE\n"
        "exchange ai.tasks  /          1200  261 KiB\n"
        "\n"
        "DIED OF         MESSAGES\n"
        "access_refused         1\n"
        "nacked                 1\n"
        "expired                1\n"
        "corrupt                1\n"
    )


def test_what_the_messages_wait_for(capsys: Capsys) -> None:
    it, spool = broker()
    spool.key("exchange ai.tasks", 3, 900)
    spool.obstacles = [("/", "", "the broker refuses the login"), ("/agents", "ann\x1b", "no route")]
    spool.parked = 2
    with sidecar(it) as url:
        assert run("status", "--admin", url) == 0
    assert capsys.readouterr().out.splitlines()[1:6] == [
        "state     waiting, see below",
        "waiting   3 messages, 900 B of 1.0 GiB",
        "          for a connection (vhost /): the broker refuses the login",
        "          for a connection (user ann?, vhost /agents): no route",
        "          2 messages until the user they are from has logged in",
    ]


def test_status_of_one_that_does_not_work_is_1(capsys: Capsys) -> None:
    it, spool = broker("rabbitmq", "other")
    spool.problem = "no space left on device"
    for number in range(300):
        spool.key(f"queue {number}", 1, 1)
    with sidecar(it) as url:
        assert run("status", "--admin", url) == 1
        out = capsys.readouterr().out
        assert "state     no space left on device" in out
        assert "and 100 more" in out
        assert "spool     other\nstate     fine\n" in out
        assert run("status", "--admin", url, "--upstream", "other") == 0
        assert "rabbitmq" not in capsys.readouterr().out


def test_list(capsys: Capsys) -> None:
    it, _ = broker()
    with sidecar(it) as url:
        assert run("list", "--admin", url) == 0
        captured = capsys.readouterr()
        assert captured.out == (
            "ID    AGE  REASON          CODE  TRIES  EXCHANGE        ROUTING KEY         SIZE  FROM\n"
            " 3  2 min  access_refused   403      0  ai.tasks        ai.inference.go     11 B  pika/guest\n"
            " 4    2 h  nacked             -      0  (default)       tasks            1.4 KiB  -\n"
            " 7  2 min  expired            -      0  ai.tasks        ai.inference.go     11 B  pika/guest\n"
            " 8  2 min  corrupt            -      -  (not readable)                      17 B  -\n"
        )
        assert captured.err == "4 dead letters\n"
        assert run("list", "--admin", url, "--limit", "2") == 0
        captured = capsys.readouterr()
        assert captured.out.count("\n") == 3
        assert captured.err == "2 of 4 dead letters; for the next: --after 4\n"
        assert run("list", "--admin", url, "--after", "4", "--reason", "expired") == 0
        captured = capsys.readouterr()
        assert captured.out.splitlines()[1].startswith(" 7 ")
        assert captured.err == "1 of 4 dead letters\n"
        assert run("list", "--admin", url, "--exchange", "nowhere") == 0
        assert capsys.readouterr() == ("", "none of 4 dead letters\n")


def test_an_empty_list(capsys: Capsys) -> None:
    it, spool = broker()
    spool.dead_letters.letters.clear()
    with sidecar(it) as url:
        assert run("list", "--admin", url) == 0
    assert capsys.readouterr() == ("", "no dead letters\n")


def test_show(capsys: Capsys) -> None:
    it, spool = broker()
    spool.dead_letters.add(
        letter(
            9,
            message(
                b"one\n\ttwo",
                vhost="/agents",
                user="guest",
                priority=5,
                flags=1,
                trace="00-1-2-01",
                headers={"n": 1, "deep": {"a": [True]}},
            ),
            reason="access_refused",
            code=403,
        )
    )
    with sidecar(it) as url:
        assert run("show", "9", "--admin", url) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("died        2026-01-01T00:01:00.000Z, ")
    del lines[1]
    assert lines == [
        "id          9",
        "reason      access_refused (403)",
        "published   2026-01-01T00:00:00.000Z, from pika/guest",
        "vhost       /agents",
        "exchange    ai.tasks",
        "key         ai.inference.go",
        "tries       0",
        "priority    5",
        "user-id     guest",
        "trace       00-1-2-01",
        "mandatory   yes",
        "",
        "PROPERTIES",
        "  content_type    application/json",
        "  correlation_id  c-1",
        "  message_id      m-1",
        "",
        "HEADERS",
        "  n     1",
        '  deep  {"a": [true]}',
        "",
        "BODY (8 B)",
        "one",
        "\ttwo",
    ]


def test_show_what_is_no_text_or_cannot_be_read_or_is_not_there(capsys: Capsys) -> None:
    it, spool = broker()
    spool.dead_letters.add(letter(9, message(b"")), letter(10, message(b"x" * 70_000)))
    with sidecar(it) as url:
        assert run("show", "4", "--admin", url) == 0
        out = capsys.readouterr().out
        assert "BODY (1.4 KiB, base64)\nAP8A/wD/" in out
        assert max(len(line) for line in out.splitlines()) == 76
        assert run("show", "8", "--admin", url) == 0
        assert "WHAT IS LEFT OF IT (14 B, base64)\n/yBub3QgYSByZWNvcmQ=\n" in capsys.readouterr().out
        assert run("show", "9", "--admin", url) == 0
        assert capsys.readouterr().out.endswith("\nBODY (0 B)\n")
        assert run("show", "10", "--admin", url) == 0
        assert "BODY (68.4 KiB, only the beginning)\nxxx" in capsys.readouterr().out
        assert run("show", "99", "--admin", url) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "there is no dead letter 99" in err


def test_export(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    it, spool = broker()
    spool.dead_letters.add(letter(9, message(b"x" * 200_000)))
    with sidecar(it) as url:
        assert run("export", "--admin", url) == 0
        found = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
        assert [it["id"] for it in found] == [3, 4, 7, 8, 9]
        assert found[-1]["body"]["content"] == "x" * 200_000
        assert run("export", "--admin", url, "--after", "3", "--limit", "1", "--exchange", "") == 0
        (line,) = capfdbinary.readouterr().out.splitlines()
        assert json.loads(line)["id"] == 4


def test_replay_and_drop_of_some(capsys: Capsys) -> None:
    it, spool = broker()
    with sidecar(it) as url:
        assert run("replay", "3", "99", "8", "7", "--admin", url) == 1
        out, err = capsys.readouterr()
        assert out == "2 dead letters put into the spool of rabbitmq once more\n"
        assert err.splitlines() == [
            "sidecar spool: there is no dead letter 99; it may have been replayed, dropped, or kept for long enough",
            "sidecar spool: what is left of it cannot be sent; drop it",
        ]
        assert run("drop", "8", "--admin", url) == 0
        assert capsys.readouterr() == ("1 dead letter dropped\n", "")
        assert run("drop", "8", "--admin", url) == 1
        assert capsys.readouterr().out == ""
    assert spool.dead_letters.replayed == [3, 7]
    assert list(spool.dead_letters.letters) == [4]


def test_replay_of_all_goes_on_until_it_is_done(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    it, spool = broker()
    spool.dead_letters.add(*(letter(number) for number in range(10, 60)))
    monkeypatch.setattr(operations, "CHANGE_SECONDS", -1.0)
    with sidecar(it) as url:
        assert run("replay", "--reason", "expired", "--admin", url) == 0
        assert run("replay", "--all", "--admin", url) == 0
        assert run("replay", "--all", "--admin", url) == 0
    assert capsys.readouterr().out.splitlines() == [
        "1 dead letter put into the spool of rabbitmq once more",
        "52 dead letters put into the spool of rabbitmq once more",
        "0 dead letters put into the spool of rabbitmq once more",
    ]
    assert list(spool.dead_letters.letters) == [8]


@pytest.mark.parametrize(
    ("typed", "code", "left"), [("y\n", 0, 0), ("yes\n", 0, 0), ("n\n", 1, 4), ("\n", 1, 4), ("", 1, 4)]
)
def test_dropping_all_asks_first(
    typed: str, code: int, left: int, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    it, spool = broker()
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    with sidecar(it) as url:
        assert run("drop", "--all", "--admin", url) == code
    out, err = capsys.readouterr()
    assert err.startswith(
        "Drop 4 dead letters of rabbitmq (access_refused: 1, nacked: 1, expired: 1, corrupt: 1)? "
        "Nothing brings them back. [y/N] "
    )
    assert out == ("" if left else "4 dead letters dropped\n")
    assert len(spool.dead_letters.letters) == left


def test_dropping_by_a_filter_asks_too(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    it, spool = broker()
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    with sidecar(it) as url:
        assert run("drop", "--reason", "nacked", "--exchange", "", "--admin", url) == 0
    assert "Drop all dead letters of rabbitmq that died of nacked to (default)? " in capsys.readouterr().err
    assert list(spool.dead_letters.letters) == [3, 7, 8]


def test_where_nobody_can_be_asked_it_has_to_be_said(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    it, spool = broker()
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with sidecar(it) as url:
        assert run("drop", "--all", "--admin", url) == 2
        assert len(spool.dead_letters.letters) == 4
        assert "--yes" in capsys.readouterr().err
        assert run("drop", "--all", "--yes", "--admin", url) == 0
    assert spool.dead_letters.letters == {}


def test_which_upstream(capsys: Capsys) -> None:
    it, _ = broker("rabbitmq", "other")
    with sidecar(it) as url:
        assert run("list", "--admin", url) == 1
        assert "say which with --upstream: rabbitmq, other" in capsys.readouterr().err
        assert run("list", "--admin", url, "--upstream", "other") == 0
        assert capsys.readouterr().err == "no dead letters\n"
        assert run("list", "--admin", url, "--upstream", "third") == 1
        assert "there are: rabbitmq, other" in capsys.readouterr().err
    with sidecar(running("ollama")) as url:
        for command in ("list", "status"):
            assert run(command, "--admin", url) == 1
            assert "no upstream has a spool" in capsys.readouterr().err


def test_the_token(capsys: Capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    it, _ = broker()
    it.config = replace(it.config, admin=Admin(bind=Address("127.0.0.1", 0), token=Secret("sesame")))
    file = tmp_path / "token"
    file.write_text("sesame\n")
    with sidecar(it) as url:
        assert run("list", "--admin", url) == 1
        assert "--token-file FILE" in capsys.readouterr().err
        assert run("list", "--admin", url, "--token-file", str(file)) == 0
        assert run("drop", "3", "--admin", url, "--token-file", str(tmp_path / "none")) == 1
        monkeypatch.setenv("SIDECAR_ADMIN_TOKEN", "sesame")
        assert run("drop", "3", "--admin", url) == 0
    assert f"{tmp_path / 'none'}: No such file" in capsys.readouterr().err


# -- what answers otherwise --------------------------------------------------------------------------------------------


@contextmanager
def stranger(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server that is no sidecar's."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def page(status: int, body: bytes, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.mark.parametrize(
    "answer",
    [page(200, b"<html>"), page(200, b"[]"), page(404, b"not here"), page(500, b'{"error": 1}'),
     page(302, b"", Location="http://127.0.0.1:9/"), page(200, b'{"upstreams": [{}]}'),
     page(200, b'{"upstreams": [7]}'), page(200, b'{"upstreams": 7}')],
)  # fmt: skip
def test_something_else_answers(answer: Callable[[BaseHTTPRequestHandler], None], capsys: Capsys) -> None:
    with stranger(answer) as url:
        assert run("list", "--admin", url) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sidecar spool: ")
    assert err.count("\n") == 1


def test_an_answer_of_another_shape(capsys: Capsys) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        known = b'{"upstreams": [{"name": "rabbitmq", "spool": {}}]}'
        page(200, known if handler.path == "/amqp" else b'{"messages": "many"}')(handler)

    with stranger(answer) as url:
        for command in (["status"], ["list"], ["show", "1"]):
            assert run(*command, "--admin", url) == 1
            out, err = capsys.readouterr()
            assert (out, err) == (
                "", "sidecar spool: the answer makes no sense; is that a sidecar of another version?\n"
            )  # fmt: skip


def test_the_token_goes_nowhere_else(monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    monkeypatch.setenv("SIDECAR_ADMIN_TOKEN", "sesame")
    asked: list[str] = []
    with (
        stranger(lambda handler: asked.append(handler.path)) as other,
        stranger(page(307, b"", Location=f"{other}/amqp")) as url,
    ):
        assert run("list", "--admin", url) == 1
    assert asked == []
    assert "sesame" not in capsys.readouterr().err


def test_an_export_that_is_cut_off(capsys: Capsys) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/amqp":
            page(200, b'{"upstreams": [{"name": "rabbitmq", "spool": {}}]}')(handler)
            return
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b'8\r\n{"id":1}\r\n')

    with stranger(answer) as url:
        assert run("export", "--admin", url) == 1
    assert "the export was cut off" in capsys.readouterr().err


def test_nobody_answers(capsys: Capsys) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert run("replay", "1", "2", "--admin", url) == 1
    err = capsys.readouterr().err
    assert f"cannot reach {url}: Connection refused; is the sidecar running" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("url", ["", "127.0.0.1:15000", "file:///etc/passwd", "http://", "http://[", "http://h:port"])
def test_what_is_no_url(url: str, capsys: Capsys) -> None:
    assert run("list", "--admin", url) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


# -- the files of a stopped one ----------------------------------------------------------------------------------------


def filled(folder: Path, name: str = "rabbitmq") -> list[int]:
    """A spool's files, with 5 messages and 40 dead letters, whose numbers are returned."""
    database = Database(folder, name)
    database.open()
    try:
        changes = Transaction()
        for number in range(40):
            of: SpooledMessage = message(b"%d" % number, exchange="" if number % 4 else "ai.tasks")
            changes.dead.append(NewDeadLetter(of, "expired" if number % 2 else "nacked", 0, time.time() - 90))
        database.write([message() for _ in range(5)], changes)
        return [found.id for found in database.list_dead(1000)]
    finally:
        database.close()


def test_files(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    numbers = filled(tmp_path)
    path = "--path", str(tmp_path)
    assert run("status", *path) == 0
    out = capfdbinary.readouterr().out.decode()
    assert out.startswith("spool     rabbitmq\nwaiting   5 messages, ")
    assert "exchange ai.tasks  /             5" in out
    assert "nacked         20" in out
    assert run("list", *path, "--limit", "3") == 0
    captured = capfdbinary.readouterr()
    assert captured.out.count(b"\n") == 4
    assert captured.err.decode() == f"3 of 40 dead letters; for the next: --after {numbers[2]}\n"
    assert run("show", str(numbers[7]), *path) == 0
    assert capfdbinary.readouterr().out.decode().endswith("BODY (1 B)\n7\n")
    assert run("show", "999999", *path) == 1
    assert run("export", *path, "--reason", "nacked") == 0
    lines = capfdbinary.readouterr().out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == numbers[::2]
    assert run("drop", str(numbers[0]), "999999", *path) == 1
    captured = capfdbinary.readouterr()
    assert (captured.out, captured.err.count(b"\n")) == (b"1 dead letter dropped\n", 1)
    assert run("drop", "--exchange", "ai.tasks", "--yes", *path) == 0
    assert capfdbinary.readouterr().out == b"9 dead letters dropped\n"
    assert run("drop", "--all", "--yes", "--path", str(tmp_path / "rabbitmq.db")) == 0
    assert capfdbinary.readouterr().out == b"30 dead letters dropped\n"


def test_files_of_several_upstreams(tmp_path: Path, capsys: Capsys) -> None:
    filled(tmp_path, "a/b")
    filled(tmp_path, "other")
    assert run("list", "--path", str(tmp_path)) == 1
    assert "--upstream: a/b, other" in capsys.readouterr().err
    assert run("list", "--path", str(tmp_path), "--upstream", "a/b") == 0
    assert run("status", "--path", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "spool     a/b\n" in out
    assert "spool     other\n" in out


def test_files_that_are_in_use(tmp_path: Path, capsys: Capsys) -> None:
    filled(tmp_path)
    database = Database(tmp_path, "rabbitmq")
    database.open()
    try:
        assert run("list", "--path", str(tmp_path)) == 1
    finally:
        database.close()
    err = capsys.readouterr().err
    assert f"is in use by another process, {os.getpid()}; a running sidecar is asked with --admin URL" in err


@pytest.mark.parametrize("what", ["nothing", "empty", "else", "text", "garbage", "database"])
def test_where_there_are_no_files(what: str, tmp_path: Path, capsys: Capsys) -> None:
    path = tmp_path / "spool"
    if what != "nothing":
        path.mkdir()
    if what == "else":
        (path / "notes.txt").write_text("x")
    if what == "text":
        path = path / "rabbitmq.txt"
        path.write_text("x" * 10_000)
    if what == "garbage":
        (path / "rabbitmq.db").write_text("x" * 10_000)
    if what == "database":
        with closing(sqlite3.connect(path / "rabbitmq.db")) as sql:
            sql.execute("CREATE TABLE dead (id)")
    before = sorted(tmp_path.rglob("*"))
    assert run("list", "--path", str(path)) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_has_looked_at_is_still_its_owners(tmp_path: Path, capsys: Capsys) -> None:
    filled(tmp_path)
    for file in (tmp_path, *tmp_path.iterdir()):
        os.chown(file, 10001, 10002)
    (tmp_path / "rabbitmq.db.lock").unlink()
    assert run("list", "--path", str(tmp_path)) == 0
    assert {(file.stat().st_uid, file.stat().st_gid) for file in tmp_path.iterdir()} == {(10001, 10002)}


# -- what is printed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (5999, "100 min"), (6000, "2 h"), (172799, "48 h"), (172800, "2 d"),
     (1e9, "11574 d")],
)  # fmt: skip
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text


def summary(**changes: Any) -> dict[str, Any]:
    return {
        "id": 1, "died": "2026-01-01T00:00:00.000Z", "age": 5.0, "reason": "nacked", "code": 0, "text": "",
        "readable": True,
        "vhost": "/", "exchange": "ai.tasks", "routing_key": "a.key", "user": "", "origin": "pika", "trace": "",
        "published": "2026-01-01T00:00:00.000Z", "expires": None, "priority": 0, "attempts": 5, "bytes": 10,
    } | changes  # fmt: skip


def test_lines_fit_the_terminal_and_only_it() -> None:
    letters = [summary(routing_key="k" * 100, origin="o" * 50), summary()]
    assert max(len(line) for line in list_lines(letters, 80, False)) == 80
    assert "…" in list_lines(letters, 80, False)[1]
    assert "k" * 100 in list_lines(letters, 0, False)[1]
    assert len(list_lines(letters, 10, False)) == 3


def test_other_virtual_hosts_are_shown() -> None:
    assert "VHOST" not in list_lines([summary()], 0, False)[0]
    head, line = list_lines([summary(vhost="/agents")], 0, False)
    assert "VHOST" in head
    assert "/agents" in line


def test_what_the_broker_said_is_shown() -> None:
    assert "BROKER" not in list_lines([summary()], 0, False)[0]
    said = "NOT_FOUND - no exchange 'x' in vhost '/'"
    head, line, other = list_lines([summary(code=404, text=said), summary(text="")], 0, False)
    assert head.endswith("BROKER SAID")
    assert line.endswith(said)
    assert other.endswith("-")
    letter = summary(text=said, mandatory=False, properties={}, headers={})
    letter["body"] = {"size": 0, "cut": False, "encoding": "text", "content": ""}
    assert f"broker      {said}" in letter_lines(letter, False)


def test_nothing_in_a_message_controls_the_terminal() -> None:
    evil = "\x1b[2J\x9b\u202e\n"
    texts = ("reason", "text", "vhost", "exchange", "routing_key", "user", "origin", "trace")
    letter = summary(**dict.fromkeys(texts, evil), mandatory=False, properties={evil: evil}, headers={evil: [evil]})
    letter["body"] = {"size": 9, "cut": False, "encoding": "text", "content": f"a\n{evil}\r"}
    for lines in (list_lines([letter], 0, False), list_lines([letter], 100, False), letter_lines(letter, False)):
        assert all(char.isprintable() or char == "\t" for line in lines for char in line)


def test_colours_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    it, _ = broker()
    with sidecar(it) as url:
        for no_color, coloured in (("", True), ("1", False)):
            monkeypatch.setenv("NO_COLOR", no_color)
            monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
            for command in (["list"], ["show", "3"], ["status"]):
                assert run(*command, "--admin", url) == 0
                assert ("\x1b[" in capsys.readouterr().out) is coloured


def test_others_do_not_pay_for_it() -> None:
    code = "import sidecar.cli.main as it, sys; it.commands(); print({'http.client', 'sqlite3'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"
