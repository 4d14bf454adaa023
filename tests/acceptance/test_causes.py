"""Why a request failed: each cause is told apart in the answer, the log, ``/upstreams``, ``sidecar status`` and the
metrics, and a caller knows what its peer's sidecar said."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from support.dns import DnsServer
from support.processes import ROOT, Sidecar, command, ending, free_port, get, wait_for
from support.silent import Silent


@contextmanager
def resetting() -> Iterator[int]:
    """A server that resets each connection as soon as something was said."""

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            client.recv(1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def lines(sidecar: Sidecar, upstream: str) -> list[dict[str, Any]]:
    """The access lines about that upstream."""
    found = [json.loads(line) for line in sidecar.output().splitlines() if line.startswith("{")]
    return [line for line in found if line["logger"] == "sidecar.access" and line["upstream"] == upstream]


def access_line(sidecar: Sidecar, upstream: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = wait_for(lambda: lines(sidecar, upstream), f"a line about {upstream}")
    return found[-1]


def status(sidecar: Sidecar) -> str:
    return command(sidecar.log.parent, "status", "--admin", sidecar.admin)[1]


#: Upstream → its answer's code, its cause, and what is said about that.
CASES = {
    "refused": ("connect_failed", "refused", "connection refused: nothing listens there"),
    "silent": ("connect_timeout", "timeout", "it was silent"),
    "unrouted": ("connect_failed", "no_route", "no route to it"),
    "resets": ("upstream_reset", "reset", "it closed the connection"),
    "nameless": ("no_endpoints", "no_such_name", "there is no such name"),
}


def test_each_cause_is_told_apart(tmp_path: Path) -> None:
    dead = free_port()
    silent = Silent("127.0.0.1")
    with DnsServer() as dns, resetting() as resets:
        endpoints = {
            "refused": f"127.0.0.1:{dead}",
            "silent": f"127.0.0.1:{silent.port}",
            "unrouted": "127.255.255.255:80",  # a broadcast address has no route for TCP
            "resets": f"127.0.0.1:{resets}",
            "nameless": "nobody.test:80",
        }
        policies = {"retry": "off", "timeout": {"connect": "300ms"}}
        upstreams = {
            name: {"bind": "127.0.0.1:0", "endpoints": [address], **policies} for name, address in endpoints.items()
        }
        config = {"service": {"name": "web"}, "dns": {"servers": [dns.address]}, "upstreams": upstreams}
        sidecar = Sidecar(tmp_path, config)
        with ending(sidecar):
            sidecar.ready()
            for name, (code, cause, text) in CASES.items():
                _, body = get(f"http://127.0.0.1:{sidecar.port(name)}/")
                assert body["error"] == code, name
                if code != "connect_timeout":
                    assert text in body["message"] or code == "upstream_reset", body
                line = access_line(sidecar, name)
                assert (line["error"], line["cause"]) == (code, cause)
            known = {it["name"]: it for it in get(sidecar.admin + "/upstreams")[1]["upstreams"]}
            metrics = get(sidecar.admin + "/metrics")[1]
            table = status(sidecar)
            for name, (code, cause, text) in CASES.items():
                if name == "nameless":
                    (host,) = known[name]["names"]
                    assert (host["error"], host["cause"]) == (text, cause)
                else:
                    (endpoint,) = known[name]["endpoints"]
                    assert (endpoint["last_error"]["kind"], endpoint["last_error"]["text"]) == (cause, text)
                    assert endpoint["last_error"]["at"].endswith("Z")
                    assert f"{text} (" in table
                if code == "upstream_reset":  # there was a connection
                    assert (
                        f'sidecar_rejected_total{{direction="outbound",upstream="{name}",error="{code}"}} 1' in metrics
                    )
                else:
                    labels = f'direction="outbound",upstream="{name}",cause="{cause}"'
                    assert f"sidecar_connect_failures_total{{{labels}}} 1" in metrics
            _out_of_descriptors(sidecar)
            _shipped(sidecar)
    silent.close()


def _out_of_descriptors(sidecar: Sidecar) -> None:
    """It is this host's fault, and the endpoint's state says so without holding it against it."""
    _, most = resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE)
    with socket.create_connection(("127.0.0.1", sidecar.port("refused")), 60) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"nothing listens there" in client.recv(65536)  # so it has been accepted
        before = get(sidecar.admin + "/upstreams/refused")[1]["endpoints"][0]["failures"]
        used = len(os.listdir(f"/proc/{sidecar.pid}/fd"))
        resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE, (used, most))
        try:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = client.recv(65536)
        finally:
            resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE, (most, most))
    assert b"Too many open files" in answer
    wait_for(lambda: lines(sidecar, "refused")[-1]["cause"] == "no_descriptors", "its line")
    assert lines(sidecar, "refused")[-1]["error"] == "local_shortage"
    endpoint = wait_for(lambda: get(sidecar.admin + "/upstreams/refused")[1], "an answer")["endpoints"][0]
    assert endpoint["last_error"]["kind"] == "no_descriptors"
    assert endpoint["failures"] == before
    metrics = get(sidecar.admin + "/metrics")[1]
    assert 'sidecar_connect_failures_total{direction="outbound",upstream="refused",cause="no_descriptors"} 1' in metrics
    assert "this host is out of descriptors (" in status(sidecar)


def _shipped(sidecar: Sidecar) -> None:
    """What the documentation has a shipper take out of a line, and a query ask for, is in real ones."""
    page = (ROOT / "docs" / "logs.md").read_text()
    shipper = (ROOT / "deploy" / "loki" / "sidecar.alloy").read_text()
    query = re.search(r"^```logql\n(.*?)^```", page, re.M | re.S)
    assert query is not None
    taken = set(re.findall(r'(\w+) = ""', _stage(shipper, "json")))
    labels = set(re.findall(r'(\w+) = ""', _stage(shipper, "labels")))
    metadata = set(re.findall(r'(\w+) = ""', _stage(shipper, "structured_metadata")))
    assert labels == {"service", "level"}
    assert taken == labels | metadata | {"ts"}
    assert 'source = "ts"' in _stage(shipper, "timestamp")
    line = access_line(sidecar, "refused")
    assert taken - {"event", "span_id"} <= line.keys(), "an access line; those are of events and of sampled requests"
    assert set(re.findall(r"(\w+) ?!?=", query[1])) | {"upstream"} <= taken
    everything = [json.loads(text) for text in sidecar.output().splitlines()]
    assert all(labels | {"ts"} <= it.keys() for it in everything), "every line"
    assert all(datetime.fromisoformat(it["ts"]).tzinfo == UTC for it in everything)


def _stage(shipper: str, name: str) -> str:
    """What is in a stage of the pipeline."""
    found = re.search(rf"^  stage\.{name} {{\n(.*?)^  }}", shipper, re.M | re.S)
    assert found is not None, name
    return found[1]


def test_a_caller_knows_what_its_peers_sidecar_said(tmp_path: Path) -> None:
    callee = Sidecar(
        tmp_path,
        {
            "service": {"name": "tasks", "app": f"127.0.0.1:{free_port()}"},
            "registry": "none",
            "inbound": {"bind": "127.0.0.1:0"},
        },
        "callee",
    )
    with ending(callee) as running:
        callee.ready()
        peer = {"address": f"127.0.0.1:{callee.port('tasks')}", "sidecar": True}
        upstream = {"bind": "127.0.0.1:0", "endpoints": [peer], "retry": "off"}
        caller = Sidecar(tmp_path, {"service": {"name": "web"}, "upstreams": {"tasks": upstream}}, "caller")
        running.append(caller)
        caller.ready()
        answer, body = get(f"http://127.0.0.1:{caller.port('tasks')}/")
        assert (answer, body["error"]) == (502, "connect_failed")
        line = access_line(caller, "tasks")
        assert (line["status"], line["peer_error"]) == (502, "connect_failed")
        assert "error" not in line  # it was not this sidecar's own answer
        assert access_line(callee, "tasks")["cause"] == "refused"
        metrics = get(caller.admin + "/metrics")[1]
        assert 'sidecar_peer_errors_total{direction="outbound",upstream="tasks",error="connect_failed"} 1' in metrics
        (endpoint,) = get(caller.admin + "/upstreams/tasks")[1]["endpoints"]
        assert endpoint["last_error"]["kind"] == "peer"
        assert endpoint["last_error"]["text"] == "its sidecar answered 502 connect_failed"
