"""``python -m bench.early``: how many early answers arrive.

An app answers 413 before it has read the upload, and closes. The rest of the upload then meets a reset, and a proxy
that looks at the failed write first has lost the answer. Each app is asked directly, through nginx, HAProxy and the
sidecar, in turn, ``--tries`` times each, by a client that reads while it sends and by one that reads afterwards (as
most libraries do). The table has the share of answers that were the app's, and whole.

Apps and proxies that are not installed are left out, with a line that says so. ``--apps-python`` names an interpreter
that has gunicorn and uvicorn, if this one has not. ``--write`` puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.page import EARLY, facts, page, table
from bench.processes import ROOT, BenchError, Child
from sidecar.demo.ports import free_ports

BODY: Final = b"too large\n"
TRIES: Final = 200
UPLOAD: Final = 4 << 20
#: Seconds after which a server that does not listen, or an answer that does not come, is given up.
PATIENCE: Final = 60.0

_APPS: Final = {
    "gunicorn": """
def app(environ, start_response):
    start_response("413 Content Too Large", [("Content-Type", "text/plain"), ("Content-Length", "%d")])
    return [%r]
""",
    "uvicorn": """
async def app(scope, receive, send):
    if scope["type"] == "http":
        headers = [(b"content-length", b"%d"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": %r})
""",
    "node": """
process.on("uncaughtException", (error) => console.error(error));  // a reset is a client's, and no end of the app
require("http").createServer((request, answer) => {
  request.on("error", () => {});
  answer.on("error", () => {});
  answer.writeHead(413, {"Content-Length": %d, "Connection": "close"});
  answer.end(%s);
  answer.on("finish", () => request.socket.destroy());
}).listen(Number(process.argv[2]), "127.0.0.1");
""",
}

_NGINX: Final = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ }}
http {{
  access_log off; client_max_body_size 0;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://127.0.0.1:{app}; proxy_request_buffering off; proxy_http_version 1.1; }}
  }}
}}
"""
_HAPROXY: Final = """
defaults
  mode http
  timeout connect 2s
  timeout client 10s
  timeout server 10s
frontend front
  bind 127.0.0.1:{port}
  default_backend back
backend back
  server app 127.0.0.1:{app}
"""


# -- the apps ---------------------------------------------------------------------------------------------------------


class Raw:
    """A server that reads a head, answers and closes, in threads of this process."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_server(("127.0.0.1", port), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                piece = connection.recv(4096)
                if not piece:
                    return
                head += piece
            connection.sendall(
                b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
            )

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def start_app(name: str, port: int, folder: Path, python: str, stack: contextlib.ExitStack) -> Child | None:
    """Start it, unless it is a thread of ours; raises :class:`BenchError` when it is not installed."""
    if name == "raw":
        stack.callback(Raw(port).close)
        return None
    if name == "node":
        source = folder / "app.js"
        source.write_text(_APPS[name] % (len(BODY), json.dumps(BODY.decode())))
        if shutil.which("node") is None:
            raise BenchError("there is no node here")
        command = ["node", str(source), str(port)]
    else:
        source = folder / f"early_{name}.py"
        source.write_text(_APPS[name] % (len(BODY), BODY))
        if subprocess.run([python, "-c", f"import {name}"], capture_output=True, check=False).returncode:
            raise BenchError(f"{python} has no {name}")
        target = f"early_{name}:app"
        command = {
            "gunicorn": [
                python,
                "-m",
                "gunicorn",
                "-w",
                "2",
                "-b",
                f"127.0.0.1:{port}",
                "--chdir",
                str(folder),
                target,
            ],
            "uvicorn": [python, "-m", "uvicorn", "--app-dir", str(folder), "--port", str(port), target],
        }[name]
    return stack.enter_context(Child(name, command, None, folder / f"{name}.log"))


# -- the proxies ------------------------------------------------------------------------------------------------------


def start_proxy(name: str, port: int, app: int, folder: Path, stack: contextlib.ExitStack) -> Child:
    """Start it in front of the app at that port. Raises :class:`BenchError` when it is not installed."""
    path = folder / f"{name}.{app}.conf"
    if name == "sidecar":
        (admin,) = free_ports(1)
        upstream = {"bind": f"127.0.0.1:{port}", "endpoints": [f"127.0.0.1:{app}"], "retry": "off"}
        config = {
            "service": {"name": "early"},
            "registry": "none",
            "admin": {"bind": f"127.0.0.1:{admin}"},
            "upstreams": {"app": upstream},
        }
        path.write_text(json.dumps(config))  # JSON is YAML
        command = [sys.executable, "-m", "sidecar", "run", str(path)]
    else:
        program = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
        if program is None:
            raise BenchError(f"there is no {name} here")
        (folder / f"{app}").mkdir(exist_ok=True)
        text = _NGINX if name == "nginx" else _HAPROXY
        path.write_text(text.format(folder=folder / f"{app}", port=port, app=app))
        command = [program, "-c", str(path)] if name == "nginx" else [program, "-db", "-f", str(path)]
    return stack.enter_context(Child(name, command, None, folder / f"{name}.{app}.log"))


def wait_for(port: int, what: str, child: Child | None) -> None:
    """Return when it listens. Raises :class:`BenchError`, also when ``child`` has ended and another has its port."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            if child is not None:
                child.check()
            return
        time.sleep(0.05)
    raise BenchError(f"{what} does not listen")


# -- the clients ------------------------------------------------------------------------------------------------------

_HEAD: Final = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"


def reading_first(client: socket.socket, request: bytes) -> str:
    """Looks for an answer between writes, as curl does."""
    data = memoryview(request)
    got = b""
    with contextlib.suppress(OSError):
        while data and not got:
            data = data[client.send(data[:65536]) :]
            with contextlib.suppress(BlockingIOError):
                got = client.recv(65536, socket.MSG_DONTWAIT)
    return answer(client, got)


def writing_first(client: socket.socket, request: bytes) -> str:
    """Looks for an answer when it has sent everything, or cannot."""
    with contextlib.suppress(OSError):
        client.sendall(request)
    return answer(client, b"")


def answer(client: socket.socket, got: bytes) -> str:
    """What the client gets, in a word: a status, ``cut`` for a part of the app's answer, or ``nothing``."""
    with contextlib.suppress(OSError):
        while not complete(got) and (piece := client.recv(65536)):
            got += piece
    head, end, _ = got.partition(b"\r\n\r\n")
    if not end:
        return "nothing"
    status = head.split(b" ", 2)[1].decode("latin-1")
    return status if status != "413" or complete(got) else "cut"


def complete(got: bytes) -> bool:
    """Whether the whole answer is here: the app's, or a page of a proxy."""
    head, end, body = got.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return bool(end) and (body == BODY or (length is not None and len(body) >= int(length[1])))


def ask(how: Callable[[socket.socket, bytes], str], port: int, size: int) -> str:
    """One upload, and what came of it."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.settimeout(PATIENCE)
        return how(client, _HEAD % size + b"x" * size)


CLIENTS: Final[Sequence[Callable[[socket.socket, bytes], str]]] = (reading_first, writing_first)
APPS: Final = ("gunicorn", "uvicorn", "node", "raw")
WAYS: Final = ("direct", "nginx", "haproxy", "sidecar")


# -- the run ----------------------------------------------------------------------------------------------------------


def measure(
    app: str, tries: int, size: int, python: str, folder: Path, proxies: Sequence[str] = WAYS[1:]
) -> dict[str, Counter[str]]:
    """For each way to the app, what its clients have got."""
    with contextlib.ExitStack() as stack:
        port, *others = free_ports(1 + len(proxies))
        children = [start_app(app, port, folder, python, stack)]
        wait_for(port, app, children[0])
        ways = {"direct": port}
        for way, other in zip(proxies, others, strict=True):
            try:
                children.append(start_proxy(way, other, port, folder, stack))
            except BenchError as error:
                print(f"{error}: left out", file=sys.stderr)
                continue
            wait_for(other, way, children[-1])
            ways[way] = other
        seen: dict[str, Counter[str]] = {way: Counter() for way in ways}
        for n in range(tries):
            for way, other in ways.items():  # in turn, so that what else the machine does meets all alike
                try:
                    seen[way][ask(CLIENTS[n % len(CLIENTS)], other, size)] += 1
                except ConnectionRefusedError:
                    for child in filter(None, children):
                        child.check()  # says what it printed last
                    raise
        return seen


def section(found: Mapping[str, Mapping[str, Counter[str]]], tries: int, size: int, about: str) -> str:
    """What docs/benchmarks.md says about it, without the title: app → way → what clients got; ``about`` the machine."""
    rows = [[app, *(str(seen[way]["413"]) if way in seen else "-" for way in WAYS)] for app, seen in found.items()]
    return f"""An app answers 413 before it has read an upload of {size} bytes, and closes. The figures say how many of
{tries} clients got that answer, and the whole of it.

{table(["app", *WAYS], rows)}

{about}

- Each app is asked directly, through nginx, HAProxy and the sidecar (the source as it is), in turn, by clients that
  look for an answer while they send and clients that look afterwards, as most libraries do.
- The proxies pass uploads on as they come (`proxy_request_buffering off`), and do not repeat requests.
- What an app's own kernel resets before a client can read it is lost for everybody, so `direct` is no upper bound."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.early", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tries", type=int, default=TRIES, help="for each app and way (%(default)s)")
    parser.add_argument("--size", type=int, default=UPLOAD, help="bytes of an upload (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=APPS, default=APPS, metavar="APP", help=", ".join(APPS))
    parser.add_argument("--apps-python", default=sys.executable, help="an interpreter with gunicorn and uvicorn")
    parser.add_argument("--write", action="store_true", help="write the section of docs/benchmarks.md")
    options = parser.parse_args()
    command = "python -m bench.early --write" + (
        " --apps-python PYTHON" if options.apps_python != sys.executable else ""
    )
    about = facts(datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), os.getloadavg()[0], _programs(options.apps_python))
    found: dict[str, dict[str, Counter[str]]] = {}
    print(f"{'app':<10}" + "".join(f"{way:>10}" for way in WAYS) + "   what else the sidecar's clients got")
    for app in options.only:
        with tempfile.TemporaryDirectory(prefix="early-") as folder:
            try:
                found[app] = seen = measure(app, options.tries, options.size, options.apps_python, Path(folder))
            except BenchError as error:
                print(f"{app:<10}{error}: left out")
                continue
        cells = "".join(f"{seen[way]['413']:>10}" if way in seen else f"{'-':>10}" for way in WAYS)
        rest = {what: n for what, n in seen["sidecar"].items() if what != "413"}
        print(f"{app:<10}{cells}   {rest or '-'}", flush=True)
    print(f"Answers of {options.tries} that were the app's, and whole; uploads of {options.size} bytes.")
    if options.write:
        path = ROOT / "docs" / "benchmarks.md"
        text = section(found, options.tries, options.size, f"Measured by `{command}`.\n\n{about}")
        path.write_text(page(path.read_text(), {EARLY: text}))
        print(f"Written to {path}")
    return 1 if any(behind(seen) for seen in found.values()) else 0


def behind(seen: Mapping[str, Counter[str]]) -> bool:
    """Whether one of the others delivered more."""
    return any(seen["sidecar"]["413"] < seen[way]["413"] for way in ("nginx", "haproxy") if way in seen)


def _programs(python: str) -> dict[str, list[str]]:
    """How the apps and the proxies tell their versions."""
    return {
        "nginx": [shutil.which("nginx") or "/usr/sbin/nginx", "-v"],
        "haproxy": [shutil.which("haproxy") or "/usr/sbin/haproxy", "-v"],
        "node": ["node", "--version"],
        "gunicorn": [python, "-m", "gunicorn", "--version"],
        "uvicorn": [python, "-m", "uvicorn", "--version"],
    }


if __name__ == "__main__":
    sys.exit(main())
