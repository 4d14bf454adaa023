"""A small server that stands for a sidecar's admin API, and says what a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Status and content; bytes are sent as they are, everything else as JSON. A function is called for each question.
Answer = tuple[int, Any] | Callable[[], tuple[int, Any]]


@contextmanager
def fake_admin(answers: Mapping[str, Answer], **headers: str) -> Iterator[str]:
    """``answers`` by path, without its slash, or as in ``POST /path``; ``headers``, with _ for -, go with each."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(f"{self.command} {self.path}") or answers.get(self.path[1:], (404, {}))
            status, content = found if isinstance(found, tuple) else found()
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content_Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

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
