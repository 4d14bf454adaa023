"""The upstream of every contender: one nginx worker with a small JSON answer, one that is an error at times, a large
file and an echo of headers."""

from __future__ import annotations

import os
from pathlib import Path

from bench.processes import Child
from sidecar.demo.ports import free_ports

SMALL_BODY = (
    '{"id": 4711, "state": "running", "queue": "task.decomposition.request", "priority": 5, "agent": "letta-07"}'
)
LARGE_BYTES = 1024 * 1024
#: Of the answers of ``/mixed``.
FAILS = 0.01

_CONFIG = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    default_type application/json;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    split_clients $request_id $bad {{ {fails:.2%} 1; * 0; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {folder}/files;
        location = /small {{ return 200 '{small}'; }}
        location = /mixed {{
            if ($bad) {{ return 500 '{small}'; }}
            return 200 '{small}';
        }}
        location = /echo {{
            return 200 '{{"x-request-id": "$http_x_request_id", "traceparent": "$http_traceparent"}}';
        }}
    }}
}}
"""


class Upstream(Child):
    """nginx, serving ``/small``, ``/mixed``, ``/large`` and ``/echo`` on :attr:`port`."""

    def __init__(self, folder: Path, core: int) -> None:
        (folder / "files").mkdir(parents=True)
        (folder / "files" / "large").write_bytes(os.urandom(LARGE_BYTES))
        (self.port,) = free_ports(1)
        # Only a root master may name a user, and its workers would then lose access to this folder.
        user = "user root;" if os.geteuid() == 0 else ""
        config = folder / "nginx.conf"
        config.write_text(_CONFIG.format(user=user, folder=folder, port=self.port, small=SMALL_BODY, fails=FAILS))
        super().__init__("nginx", ["nginx", "-p", folder, "-c", config], core, folder / "output.log")
