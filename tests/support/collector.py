"""An OTLP/HTTP collector for tests: takes spans and decodes them."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """``status`` is what it answers; while ``hold`` is clear it does not answer. Use it with ``with``."""

    def __init__(self) -> None:
        self.status = 200
        self.paths: list[str] = []
        self.requests: list[ExportTraceServiceRequest] = []
        self.hold = threading.Event()
        self.hold.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.hold.wait(60)
                if outer.status == 200:
                    outer.paths.append(self.path)
                    outer.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    @property
    def spans(self) -> list[Any]:
        """All that have come so far."""
        return [span for resource in self.resources for scope in resource.scope_spans for span in scope.spans]

    @property
    def resources(self) -> list[Any]:
        """The same, by the resource that sent them."""
        return [resource for request in self.requests for resource in request.resource_spans]
