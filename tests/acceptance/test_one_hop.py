"""Three sidecars in a row, each of which tries three times, and a last service that is down: what it sees.

Two apps stand between them. They call the next service for each request, and give its status to their caller.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from support.patience import PATIENCE
from support.processes import Sidecar, ending, free_port, get

#: What an app has to pass on.
IDS = ("x-request-id", "x-sidecar-deadline")


class Service(ThreadingHTTPServer):
    """An app. ``onward`` says by path where it calls, and with which fields of the request; without one it is down."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.onward: dict[str, tuple[int, tuple[str, ...]]] = {}
        #: By path: how often it was asked, and with which time left.
        self.seen: dict[str, list[int]] = {}
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_GET(self) -> None:
        seen = self.server.seen.setdefault(self.path, [])
        seen.append(int(self.headers["x-sidecar-deadline"]))
        status = 503
        if self.path in self.server.onward:
            port, names = self.server.onward[self.path]
            status, _ = ask(port, self.path, **{name: self.headers[name] for name in names})
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def ask(port: int, path: str, **fields: str) -> tuple[int, str | None]:
    """The status of a request, and what its answer says of tries."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        connection.request("GET", path, headers=fields)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers["x-sidecar-retried"]


class Row:
    """The row: a sidecar ``edge``, then two services with theirs, then ``last``."""

    def __init__(self, edge: Sidecar, last: Service) -> None:
        self.edge = edge
        self.last = last


def upstream(address: str, sidecar: bool, **retry: Any) -> dict[str, Any]:
    return {
        "bind": "127.0.0.1:0",
        "endpoints": [{"address": address, "sidecar": sidecar}],
        "circuit_breaker": "off",
        "retry": {"max_attempts": 3, "initial_delay": 0, **retry},
    }


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Row]:
    folder = tmp_path_factory.mktemp("row")
    with ExitStack() as stack:
        first, second, last = (stack.enter_context(closing(Service())) for _ in range(3))
        sidecars: dict[str, Sidecar] = {}
        running = stack.enter_context(ending())
        address, is_sidecar = last.address, False
        for name, app in (("second", second), ("first", first), ("edge", None)):
            config: dict[str, Any] = {
                "service": {"name": name},
                "upstreams": {
                    "with": upstream(address, is_sidecar, budget={"ratio": "20%", "min": "0/s"}),
                    "without": upstream(address, False, budget="off"),
                },
            }
            if app is not None:
                address, is_sidecar = f"127.0.0.1:{free_port()}", True
                config["service"]["app"] = app.address
                config["inbound"] = {"bind": address}
            sidecars[name] = Sidecar(folder, config, name)
            running.append(sidecars[name])
        for name, app in (("second", second), ("first", first)):
            port = sidecars[name].ready().port
            app.onward = {"/with": (port("with"), IDS), "/without": (port("without"), IDS[1:])}
        yield Row(sidecars["edge"].ready(), last)


def test_a_service_that_is_down_sees_at_most_1_3_times_its_requests(row: Row) -> None:
    asked = 60
    for number in range(asked):
        status, retried = ask(row.edge.port("with"), "/with", **{"x-request-id": f"r{number}"})
        assert status == 503
        assert retried in ("1", "2", "3")
    assert asked < len(row.last.seen["/with"]) <= 1.3 * asked
    _, page = get(f"{row.edge.admin}/metrics")
    assert f'sidecar_retries_suppressed_total{{upstream="with",reason="retried"}} {asked}.0' in page
    assert 'sidecar_retries_total{upstream="with"' not in page


def test_without_these_rules_it_sees_27_times_as_many(row: Row) -> None:
    for _ in range(2):
        assert ask(row.edge.port("without"), "/without") == (503, "3")
    assert len(row.last.seen["/without"]) == 2 * 27


def test_the_deadline_travels_through_all_of_them(row: Row) -> None:
    ask(row.edge.port("with"), "/with", **{"x-sidecar-deadline": "9000"})
    assert 0 < row.last.seen["/with"][-1] <= 9000
    row.last.seen.clear()
    assert ask(row.edge.port("with"), "/with", **{"x-sidecar-deadline": "0"})[0] == 504
    assert row.last.seen == {}
