"""An OTLP/HTTP collector for tests: takes spans as JSON and decodes them into the protocol's own messages."""

from __future__ import annotations

import json
import re
import threading
from base64 import b64encode
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

#: Ids are the one thing that OTLP/JSON writes otherwise than protobuf does: in hexadecimal.
_DIGITS = {"traceId": 32, "spanId": 16, "parentSpanId": 16}


def decode(body: bytes) -> ExportTraceServiceRequest:
    """What OTLP/JSON says, or an error where it is none: unknown fields and wrong types are not let through."""
    request = ExportTraceServiceRequest()
    json_format.ParseDict(_with_protobuf_ids(json.loads(body)), request)
    return request


def _with_protobuf_ids(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _with_protobuf_ids(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_protobuf_ids(item) for item in value]
    if key in _DIGITS:
        assert re.fullmatch(f"[0-9a-f]{{{_DIGITS[key]}}}", value), (key, value)
        assert value.strip("0"), key
        return b64encode(bytes.fromhex(value)).decode()
    return value


def attributes(span: Any) -> dict[str, Any]:
    """A span's attributes, or a resource's."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


class Collector:
    """``answer`` is what it says, and ``status`` with which code; while ``hold`` is clear it does not answer. Use it
    with ``with``."""

    def __init__(self) -> None:
        self.status = 200
        self.answer = b"{}"
        #: Fields of the answer besides those about its body.
        self.fields: Mapping[str, str] = {}
        self.paths: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.requests: list[ExportTraceServiceRequest] = []
        #: Requests so far, those that were refused too; and connections.
        self.asked = 0
        self.connections = 0
        self.hold = threading.Event()
        self.hold.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.hold.wait(60)
                outer.asked += 1
                status = outer.status
                if status == 200:
                    outer.paths.append(self.path)
                    outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                    outer.requests.append(decode(body))
                self.send_response(status)
                for name, value in outer.fields.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(outer.answer)))
                self.end_headers()
                self.wfile.write(outer.answer)

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

    def by_service(self, service: str) -> list[Any]:
        """The spans of one service."""
        return [
            span
            for resource in self.resources
            if attributes(resource.resource)["service.name"] == service
            for scope in resource.scope_spans
            for span in scope.spans
        ]
