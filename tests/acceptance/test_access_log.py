"""The access log of real processes: what was slow, failed or malformed, a switch by reload, and lines for people."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import yaml

from support.processes import App, Sidecar, ending, free_port, get, wait_for

SECRET = "hush-hush"
#: What a client sends, and what is said about it.
MALFORMED = [
    (f"GET /a?token={SECRET} HTTP/1.1\r\nbad field: {SECRET}\r\n\r\n", 400, "bad_request", "GET", "/a",
     "a header name with a space or a forbidden character"),
    (f"POST /up HTTP/1.1\r\nhost: t\r\ncontent-length: 99999\r\n\r\n{SECRET}", 413, "body_too_large", "POST", "/up",
     "the request body is larger than 1024 bytes"),
    (f"GET /big HTTP/1.1\r\nhost: t\r\nx: {SECRET * 500}\r\n", 431, "headers_too_large", "GET", "/big",
     "the request head is larger than 2048 bytes"),
    (f"\x16\x03\x01{SECRET}", 400, "bad_request", None, None,
     "a control byte, or a bare CR or LF, in the request head"),
]  # fmt: skip


def lines(sidecar: Sidecar) -> list[dict[str, Any]]:
    """The access lines so far."""
    found = [json.loads(line) for line in sidecar.output().splitlines() if line.startswith("{")]
    return [line for line in found if line["logger"] == "sidecar.access"]


def say(port: int, data: str) -> str:
    """Send that, and return all that is answered."""
    with socket.create_connection(("127.0.0.1", port), 60) as client:
        client.sendall(data.encode("latin-1"))
        found = b""
        while more := client.recv(65536):
            found += more
    return found.decode()


def _line_after(sidecar: Sidecar, count: int) -> dict[str, Any]:
    found: list[dict[str, Any]] = wait_for(lambda: lines(sidecar)[count:], "one more line")
    return found[-1]


def test_slow_failed_and_malformed_requests_have_lines_and_a_reload_switches(tmp_path: Path) -> None:
    app = App(tmp_path, "app")
    config = {
        "service": {"name": "web"},
        "registry": "none",
        "log": {"access": {"slow": "100ms"}},
        "upstreams": {
            "up": {
                "bind": "127.0.0.1:0",
                "endpoints": [f"127.0.0.1:{app.port}"],
                "limits": {"head": "2KiB", "body": "1KiB"},
            }
        },
    }
    sidecar = Sidecar(tmp_path, config)
    with ending(app, sidecar):
        app.ready()
        sidecar.ready()
        port = sidecar.port("up")
        assert get(f"http://127.0.0.1:{port}/quick?token={SECRET}")[0] == 200
        assert get(f"http://127.0.0.1:{port}/slow/300")[0] == 200
        slow = wait_for(lambda: [it for it in lines(sidecar) if it.get("target") == "/slow/300"], "its line")[0]
        assert (slow["status"], slow["level"]) == (200, "info")
        assert slow["first_byte"] >= 0.3
        assert slow["duration"] >= slow["first_byte"]
        for data, status, code, method, target, reason in MALFORMED:
            before = len(lines(sidecar))
            answer = say(port, data)
            assert answer.startswith(f"HTTP/1.1 {status} ")
            line = _line_after(sidecar, before)
            assert (line["status"], line["error"], line["reason"]) == (status, code, reason)
            assert (line.get("method"), line.get("target"), line["client"]) == (method, target, "127.0.0.1")
            assert line["request_id"] in answer  # so that a client can name it
        before = len(lines(sidecar))
        for _ in range(60):
            say(port, "nonsense\r\n\r\n")
        left_out = re.compile(r'"left_out":(\d+)')

        def told() -> int:
            return len(lines(sidecar)) - before + sum(map(int, left_out.findall(sidecar.output())))

        wait_for(lambda: told() == 60, "each has a line or is counted")
        assert left_out.search(sidecar.output())
        metrics = get(sidecar.admin + "/metrics")[1]
        rejected = 'sidecar_rejected_total{direction="outbound",upstream="up",error='
        assert f'{rejected}"bad_request"}} 62' in metrics
        assert 'sidecar_requests_total{direction="outbound",upstream="up",method="other",code="431"} 1' in metrics
        for family in ("request_duration", "first_byte"):  # the two that had a try
            assert f'sidecar_{family}_seconds_count{{direction="outbound",upstream="up"}} 2' in metrics
        sidecar.file.write_text(yaml.safe_dump({**yaml.safe_load(sidecar.file.read_text()), "log": {"access": "all"}}))
        os.kill(sidecar.pid, signal.SIGHUP)
        wait_for(lambda: '"reloaded"' in sidecar.output(), "reloaded")
        assert get(f"http://127.0.0.1:{port}/now?token={SECRET}")[0] == 200
        quick = wait_for(lambda: [it for it in lines(sidecar) if it.get("target") == "/now"], "its line")[0]
        assert quick["first_byte"] > 0
        assert SECRET not in sidecar.output()


def test_lines_for_people(tmp_path: Path) -> None:
    port = free_port()
    upstreams = {"up": {"bind": f"127.0.0.1:{port}", "endpoints": [f"127.0.0.1:{free_port()}"], "retry": "off"}}
    sidecar = Sidecar(tmp_path, {"service": {"name": "web"}, "log": {"format": "text"}, "upstreams": upstreams})
    with ending(sidecar):
        wait_for(lambda: get(f"http://127.0.0.1:{port}/who")[0] == 502, "it serves")
        line = wait_for(lambda: re.search(r"^.* outbound up GET /who .*$", sidecar.output(), re.M), "its line")[0]
        start = r"[-0-9T:.]+Z warning outbound up GET /who 502 connect_failed refused [0-9.]+m?s "
        assert re.match(start + r"(waited=[^ ]+ )?connecting=", line)
        assert re.search(r' tries="127.0.0.1:\d+ connect refused [0-9.]+m?s" ', line)
        assert "\x1b" not in sidecar.output()  # a file is no terminal
