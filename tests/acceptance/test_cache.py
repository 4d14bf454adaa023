"""The response cache of a real sidecar: a hundred at once are one request, and an outage is not noticed."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

from support.patience import PATIENCE
from support.processes import Sidecar, ending, get, wait_for
from support.scripted import Server

MANY = 100


def test_a_hundred_at_once_and_an_outage(tmp_path: Path) -> None:
    go = threading.Event()

    def answer(connection: socket.socket) -> None:
        assert go.wait(PATIENCE)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nkept")

    with Server(answer) as upstream:
        config = {
            "service": {"name": "edge"},
            "upstreams": {
                "shop": {
                    "bind": "127.0.0.1:0",
                    "endpoints": [upstream.address],
                    "retry": "off",
                    "cache": {"methods": ["GET"], "ttl": "5m", "max_bytes": "64MiB", "key": "target"},
                }
            },
        }
        with ending(Sidecar(tmp_path, config)) as running:
            sidecar = running[0]
            assert isinstance(sidecar, Sidecar)
            url = f"http://127.0.0.1:{sidecar.ready().port('shop')}/a"
            with ThreadPoolExecutor(MANY) as pool:
                answers = [pool.submit(get, url) for _ in range(MANY)]
                wait_for(lambda: _active(sidecar) == MANY, "all of them wait")
                go.set()
                assert {it.result(PATIENCE) for it in answers} == {(200, "kept")}
            assert upstream.taken == 1
            upstream.stop()
            assert get(url) == (200, "kept")
            _, told = get(f"{sidecar.admin}/cache")
            (cache,) = told["caches"]
            assert (cache["entries"], cache["outcomes"]) == (1, {"miss": 1, "collapsed": MANY - 1, "hit": 1})
            _, page = get(f"{sidecar.admin}/metrics")
            assert f'sidecar_cache_total{{upstream="shop",outcome="collapsed"}} {MANY - 1}.0' in page
            with urlopen(Request(f"{sidecar.admin}/cache", method="DELETE"), timeout=PATIENCE) as emptied:
                assert emptied.status == 200
            assert get(url)[0] == 502


def _active(sidecar: Sidecar) -> int:
    _, told = get(f"{sidecar.admin}/upstreams/shop")
    found: int = told["stats"]["active"]
    return found
