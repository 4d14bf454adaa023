"""What the dashboard costs: ``python -m bench.dashboard``, about a minute.

The sidecar's side: its CPU time while the same paced requests pass, in turns with nobody listening and with twenty
dashboards' streams. CPU time and not throughput, so that a busy machine changes little. The browser's side: how long
the page's main thread works while it is told of a hundred changes a second.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from support.browser import Watched, chromium
from support.processes import App, Sidecar, ending

UPSTREAMS: Final = 50
ENDPOINTS: Final = 20
LISTENERS: Final = 20
#: Requests a second, to ten of the upstreams in turn; seconds of one turn; turns of each kind.
RATE: Final = 200
SECONDS: Final = 5.0
TURNS: Final = 3
#: Changes a second that the page is told of, and for how long it is watched.
CHANGES: Final = 100
WATCHED: Final = 6.0

_TELL = """async ([version, changes]) => {
    const { state, takeChange } = await import(`/dashboard/${version}/app/store.js`);
    const names = Object.keys(state.now.upstreams);
    let n = 0;
    setInterval(() => {
        const name = names[n++ % names.length];
        const it = state.now.upstreams[name];
        const each = it.each.map((row) => ({ ...row, active: n % 7 }));
        takeChange({ upstreams: { [name]: { ...it, rate: n % 1000, p99_ms: n % 90, active: n % 7, each } } });
    }, 1000 / changes);
}"""


def main() -> None:
    """Measure both and print a table."""
    with tempfile.TemporaryDirectory() as folder, ending() as running:
        app = App(Path(folder), "app")
        running.append(app)
        endpoints = [f"127.0.0.1:{app.port}", *(f"127.0.1.{n}:9" for n in range(1, ENDPOINTS))]
        upstream = {"bind": "127.0.0.1:0", "endpoints": endpoints, "balancer": "least_connections"}
        names = [f"upstream-{n:02}" for n in range(UPSTREAMS)]
        config = {"service": {"name": "bench"}, "upstreams": dict.fromkeys(names, upstream)}
        sidecar = Sidecar(Path(folder), config)
        running.append(sidecar)
        app.ready()
        sidecar.ready()
        _sidecar(sidecar, names[:10])
        _page(sidecar)


def _sidecar(sidecar: Sidecar, names: list[str]) -> None:
    found: dict[int, list[float]] = {0: [], LISTENERS: []}
    _load(sidecar, names, 1.0)
    for _ in range(TURNS):
        for listeners, shares in found.items():
            with _listening(sidecar, listeners):
                before, began = _cpu(sidecar.pid), time.monotonic()
                _load(sidecar, names, SECONDS)
                shares.append((_cpu(sidecar.pid) - before) / (time.monotonic() - began))
    without, with_all = (median(shares) for shares in found.values())
    print(f"sidecar, {UPSTREAMS} upstreams of {ENDPOINTS} endpoints, {RATE} requests/s")
    print(f"  nobody listens     {without:6.1%} of a core")
    print(f"  {LISTENERS} dashboards      {with_all:6.1%} of a core: {with_all - without:+.1%}")


def _load(sidecar: Sidecar, names: list[str], seconds: float) -> None:
    clients = [http.client.HTTPConnection("127.0.0.1", sidecar.port(name), timeout=30) for name in names]
    end, due = time.monotonic() + seconds, time.monotonic()
    for n in range(int(seconds * RATE)):
        client = clients[n % len(clients)]
        client.request("GET", "/")
        client.getresponse().read()
        due += 1 / RATE
        time.sleep(max(0.0, due - time.monotonic()))
    time.sleep(max(0.0, end - time.monotonic()))
    for client in clients:
        client.close()


@contextlib.contextmanager
def _listening(sidecar: Sidecar, number: int) -> Iterator[None]:
    """So many streams, which are read; by a thread of this process, whose CPU time is not counted."""
    import selectors
    import threading

    host, _, port = sidecar.admin.removeprefix("http://").rpartition(":")
    sockets = [socket.create_connection((host, int(port))) for _ in range(number)]
    done = threading.Event()
    selector = selectors.DefaultSelector()
    for sock in sockets:
        sock.sendall(f"GET /events HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: text/event-stream\r\n\r\n".encode())
        selector.register(sock, selectors.EVENT_READ)

    def read() -> None:
        while not done.is_set():
            for key, _ in selector.select(0.1):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.recv(1 << 20)

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(1.0)
    try:
        yield
    finally:
        done.set()
        thread.join()
        selector.close()
        for sock in sockets:
            sock.close()


def _cpu(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _page(sidecar: Sidecar) -> None:
    print(f"page, told of {CHANGES} changes a second")
    with chromium() as browser, Watched(browser, sidecar.admin, viewport={"width": 1440, "height": 900}) as watched:
        page = watched.open("overview", "Overview")
        page.get_by_role("row").filter(has_text="upstream-00").first.wait_for()
        source = page.locator('script[type="module"]').first.get_attribute("src") or ""
        page.evaluate(_TELL, [source.split("/")[2], CHANGES])
        devtools: Any = watched.context.new_cdp_session(page)
        devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        for path, heading in (("overview", "Overview"), ("upstreams", "Upstreams"), ("upstreams/upstream-00",) * 2):
            page.evaluate("(hash) => { location.hash = hash }", f"#/{path}")
            page.get_by_role("heading", level=1, name=heading.rpartition("/")[2], exact=True).wait_for()
            busy, began = _busy(devtools), time.monotonic()
            page.wait_for_timeout(WATCHED * 1000)
            print(f"  {path:<22} {(_busy(devtools) - busy) / (time.monotonic() - began):6.1%} of a core")


def _busy(devtools: Any) -> float:
    """CPU seconds of the page's main thread."""
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    return float(next(it["value"] for it in metrics if it["name"] == "TaskDuration"))


if __name__ == "__main__":
    main()
