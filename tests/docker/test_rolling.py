"""Apps in pods are restarted, with their sidecars and without, while others POST to them: no request is lost. They end
at once when they are told to; what keeps requests is the hook that Compose runs before (``pre_stop``)."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from support.docker import SECONDS, Engine, Mesh, Project, mesh
from support.processes import ROOT, get, wait_for

FILE = Project([Path(__file__).with_name("rolling.yml")])
BOTH = ("tasks-1", "tasks-1-sidecar")
ANEW = ("up", "--detach", "--force-recreate", "--pull", "never")
#: Each way, and what Compose is told. It runs no hooks of what it stops within ``up``, so ``stop`` comes first.
WAYS: Final[Mapping[str, Sequence[Sequence[str]]]] = {
    "an app alone": [("restart", "tasks-1")],
    "app and sidecar, stopped and started": [("stop", *BOTH), ("start", *BOTH)],
    "app and sidecar, made anew": [("stop", *BOTH), (*ANEW, *BOTH)],
    "the whole pod, made anew": [("stop", *BOTH, "tasks-1-pod"), (*ANEW, "tasks-1-pod", *BOTH)],
}


class Load:
    """Four clients, each with a connection that it keeps; what became of their requests."""

    def __init__(self, url: str) -> None:
        self.outcomes: Counter[str] = Counter()
        self._address = url.removeprefix("http://")
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(SECONDS)

    def _work(self, number: int) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=SECONDS)
        while not self._ended.is_set():
            number += 1
            try:
                connection.request("POST" if number % 4 else "GET", "/work", b"hi")
                answer = connection.getresponse()
                body = answer.read()
                self.outcomes["200" if answer.status == 200 else f"{answer.status} {body[:200]!r}"] += 1
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.outcomes[repr(error)] += 1
            time.sleep(0.01)
        connection.close()


@pytest.fixture(scope="module")
def pods(docker: Engine) -> Iterator[Mesh]:
    assert (ROOT / ".cache" / "consul" / "consul").is_file(), "run scripts/ensure-consul"
    with mesh(docker, FILE) as found:
        yield found


def both(pods: Mesh) -> None:
    """Wait until the caller's sidecar has two instances again."""
    metrics = pods.published("caller", 15020) + "/metrics"
    line = 'sidecar_endpoints{upstream="tasks",state="healthy"} 2'
    wait_for(lambda: line in str(get(metrics)[1]), lambda: f"{get(metrics)[1]}"[-3000:] + pods.logs(), SECONDS)


@pytest.mark.parametrize("way", WAYS)
def test_no_request_is_lost(pods: Mesh, way: str) -> None:
    both(pods)
    url = pods.published("caller", 9000)
    with Load(url) as load:
        wait_for(lambda: load.outcomes["200"] > 100, "requests are answered", SECONDS)
        for command in WAYS[way]:
            pods.compose(*command)
        both(pods)
        before = load.outcomes["200"]
        wait_for(lambda: load.outcomes["200"] > before + 100, "requests are answered", SECONDS)
    print(f"{way}: {load.outcomes['200']} requests")
    assert load.outcomes.keys() == {"200"}, load.outcomes
