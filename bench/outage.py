"""``python -m bench.outage``: a service is killed for 25 s under load; what its callers see.

Task decomposition has a simple mode to fall back on, and the breaker and the retries have the numbers of the default:
five failures, a minute until it is tried again, three tries with a second between them. Printed are the answers before,
during and after, the longest time that one took, and how long it took from the kill to the first answer of the simple
mode, and from the return to the last one.

``--wait`` has requests wait (``wait: {timeout: 60s, max: 1000}``) in place of falling back.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.processes import BenchError, Child
from sidecar.demo.ports import free_ports

#: Seconds of load before the kill and after the return; and after which an answer is given up.
BEFORE: Final = 5.0
AFTER: Final = 20.0
PATIENCE: Final = 90.0

_APP: Final = """
import asyncio, sys
BODY = b'{"mode":"%s"}' % sys.argv[2].encode()
HEAD = b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(BODY)
async def serve(reader, writer):
    try:
        while True:
            await reader.readuntil(b"\\r\\n\\r\\n")
            writer.write(HEAD + BODY)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"""


class Seen(NamedTuple):
    """A request as its client saw it: when it was sent, when it was answered, the status (0: none), the step of the
    fallback."""

    sent: float
    answered: float
    status: int
    step: str


def configuration(app: int, simple: int, port: int, admin: int, wait: bool) -> dict[str, Any]:
    """The sidecar's."""
    away = ["circuit_open", "no_endpoints", "connect_failed", "upstream_reset", "timeout", "overloaded", "5xx"]
    tasks: dict[str, Any] = {
        "bind": f"127.0.0.1:{port}",
        "endpoints": [f"127.0.0.1:{app}"],
        "circuit_breaker": {
            "failure_threshold": 5, "timeout_duration": 30, "reset_timeout": 60, "half_open_requests": 3,
        },
        "retry": {"max_attempts": 3, "backoff_type": "exponential", "initial_delay": 1, "max_delay": 30},
    }  # fmt: skip
    if wait:
        tasks |= {"wait": {"timeout": "60s", "max": 10_000}, "timeout": {"request": "70s"}}
    else:
        tasks |= {"fallback": [{"on": away, "upstream": "simple-tasks"}]}
    return {
        "service": {"name": "bench"},
        "registry": "none",
        "admin": {"bind": f"127.0.0.1:{admin}"},
        "log": {"level": "error"},
        "upstreams": {
            "tasks": tasks,
            "simple-tasks": {"bind": "127.0.0.1:0", "endpoints": [f"127.0.0.1:{simple}"]},
        },
    }


class Load:
    """So many requests a second, each over a connection of its own."""

    def __init__(self, port: int, rate: float) -> None:
        self._port = port
        self._rate = rate
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.seen: list[Seen] = []

    def run(self) -> None:
        """Send until :meth:`stop`; in a thread."""
        due = time.monotonic()
        while not self._over.is_set():
            thread = threading.Thread(target=self._ask, daemon=True)
            thread.start()
            self._threads.append(thread)
            due += 1 / self._rate
            time.sleep(max(0.0, due - time.monotonic()))

    def _ask(self) -> None:
        sent = time.monotonic()
        status, step = 0, ""
        conn = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            conn.request("POST", "/api/v1/tasks", b'{"task":"x"}')
            answer = conn.getresponse()
            answer.read()
            status, step = answer.status, answer.getheader("x-sidecar-fallback", "")
        except OSError:
            pass
        finally:
            conn.close()
        self.seen.append(Seen(sent, time.monotonic(), status, step))

    def stop(self) -> None:
        """No more, and wait for the answers."""
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)


def measure(seconds: float, rate: float, wait: bool) -> tuple[list[Seen], float, float]:
    """All requests, and when the service was killed and when it was back."""
    app, simple, port, admin = free_ports(4)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        service = folder / "app.py"
        service.write_text(_APP)
        file = folder / "sidecar.yaml"
        file.write_text(json.dumps(configuration(app, simple, port, admin, wait)))
        python = sys.executable

        def start(what: str, *command: object) -> Child:
            return stack.enter_context(Child(what, [python, *map(str, command)], None, folder / f"{what}.log"))

        first = start("tasks", service, app, "full")
        start("simple", service, simple, "simple")
        sidecar = start("sidecar", "-m", "sidecar", "run", file)
        for each in (app, simple, port):
            _listens(each, sidecar)
        load = Load(port, rate)
        sender = threading.Thread(target=load.run, daemon=True)
        sender.start()
        time.sleep(BEFORE)
        killed = time.monotonic()
        first.end()
        time.sleep(seconds - (time.monotonic() - killed))
        start("tasks-again", service, app, "full")
        _listens(app, sidecar)
        back = time.monotonic()
        time.sleep(AFTER)
        load.stop()
        sender.join()
        return load.seen, killed, back


def _listens(port: int, sidecar: Child) -> None:
    """Wait until something listens there."""
    until = time.monotonic() + 30
    while True:
        sidecar.check()
        try:
            http.client.HTTPConnection("127.0.0.1", port, timeout=5).connect()
        except OSError as error:
            if time.monotonic() > until:
                raise BenchError(f"nothing listens on port {port}") from error
            time.sleep(0.05)
        else:
            return


def report(seen: Sequence[Seen], killed: float, back: float) -> list[str]:
    """What has come of it, in lines."""
    parts = {
        "before": [it for it in seen if it.sent < killed],
        "while it was away": [it for it in seen if killed <= it.sent < back],
        "after": [it for it in seen if it.sent >= back],
    }
    lines = [f"away for {back - killed:.1f} s, {len(seen)} requests"]
    for name, part in parts.items():
        statuses = ", ".join(
            f"{n} × {status or 'none'}" for status, n in sorted(Counter(it.status for it in part).items())
        )
        marked = sum(bool(it.step) for it in part)
        longest = max((it.answered - it.sent for it in part), default=0.0)
        lines.append(f"{name}: {statuses}; {marked} marked; the longest took {longest:.2f} s")
    errors = sum(it.status != 200 for it in seen)
    stand_in = [it for it in seen if it.step]
    lines.append(f"errors that clients saw: {errors}")
    if stand_in:
        lines.append(f"first marked answer {min(it.answered for it in stand_in) - killed:.2f} s after the kill")
        lines.append(f"last marked answer {max(it.sent for it in stand_in) - back:.2f} s after the return")
    own = [it.answered for it in seen if it.status == 200 and not it.step and it.answered > back]
    if own:
        first = min(own)
        lines.append(
            f"first answer of its own {first - back:.2f} s after the return, {first - killed:.1f} s after the kill"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.outage", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=25.0, help="how long it is away (25)")
    parser.add_argument("--rate", type=float, default=40.0, help="requests per second (40)")
    parser.add_argument("--wait", action="store_true", help="wait in place of falling back")
    options = parser.parse_args(arguments)
    try:
        print("\n".join(report(*measure(options.seconds, options.rate, options.wait))))
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
