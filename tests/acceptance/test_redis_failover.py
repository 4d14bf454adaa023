"""``deploy/redis`` with a replica and Sentinels: what dials its sidecar reaches the master, whichever it is, though
that one tells nobody without a password what it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from support.processes import ROOT, Process, Sidecar, ending, free_port, get, missing, wait_for
from support.servers import redis_says_all

FOLDER = ROOT / "deploy" / "redis"
PASSWORD = "a-password-of-tests"
#: Of two nodes, which have the same ports, as pods do.
FIRST, SECOND = "127.0.0.1", "127.0.0.2"


def started(folder: Path, kind: str, name: str, *arguments: str) -> Process:
    """What a container does with ``start``, on a folder of its own."""
    data = folder / name
    data.mkdir()
    environment = {"DATA": str(data), "REDIS_PASSWORD_FILE": str(folder / "password")}
    return Process(["sh", str(folder / "etc" / "start"), kind, *arguments], folder / f"{name}.log", environment)


def prepared(folder: Path, port: int) -> None:
    """The files as they are shipped, but for where the primary is, and for how soon it is taken for gone."""
    shutil.copytree(FOLDER, folder / "etc")
    (folder / "password").write_text(PASSWORD)
    sentinel = folder / "etc" / "sentinel.conf"
    text = sentinel.read_text().replace("mymaster redis 6379 2", f"mymaster {FIRST} {port} 2")
    sentinel.write_text(text.replace("mymaster 10000", "mymaster 300").replace("mymaster 60000", "mymaster 2000"))


def upstream(sentinels: Sequence[int]) -> dict[str, object]:
    """As in ``task-decomposition.yaml``, but for the ports."""
    text = (ROOT / "deploy" / "sidecars" / "task-decomposition.yaml").read_text()
    for number, port in enumerate(sentinels, 1):
        text = text.replace(f"sentinel-{number}:26379", f"{FIRST}:{port}")
    found: dict[str, object] = yaml.safe_load(text)["upstreams"]["redis"]
    return found | {"bind": "127.0.0.1:0"}


def says(port: int, *words: str) -> object:
    """An app that dials once; None: it got no answer."""
    try:
        return redis_says_all(port, ("AUTH", PASSWORD), words)[1]
    except OSError:
        return None


def _written_twice(port: int) -> bool:
    """Whether the replica has what a connection has written."""
    try:
        found = redis_says_all(port, ("AUTH", PASSWORD), ("SET", "state", "kept"), ("WAIT", "1", "1000"))
    except OSError:
        return False
    return found[1:] == [b"OK", 1]


def test_an_app_goes_on_at_the_same_address_after_a_failover(tmp_path: Path) -> None:
    if os.uname().sysname != "Linux" or not shutil.which("redis-server"):
        missing("there is no redis-server: install the package redis-server")
    port = free_port()
    prepared(tmp_path, port)
    with ending() as processes:
        for host, more in ((FIRST, []), (SECOND, ["--replicaof", FIRST, str(port)])):
            where = ["--bind", host, "--port", str(port), "--replica-announce-ip", host]
            processes.append(started(tmp_path, "redis", f"redis-{host}", *where, *more))
        sentinels = [free_port() for _ in range(3)]
        for i, it in enumerate(sentinels):
            processes.append(started(tmp_path, "sentinel", f"sentinel-{i}", "--bind", FIRST, "--port", str(it)))
        sidecar = Sidecar(tmp_path, {"service": {"name": "web"}, "upstreams": {"redis": upstream(sentinels)}})
        processes.append(sidecar.ready())
        app = sidecar.port("redis")
        wait_for(lambda: says(app, "SET", "state", "kept") == b"OK", "the app writes")
        wait_for(lambda: _written_twice(app), "the replica has it")

        def known(sentinel: int) -> bool:
            try:
                (state,) = redis_says_all(sentinel, ("SENTINEL", "MASTERS"))[0]
            except OSError:  # it has not started yet
                return False
            found = dict(zip(state[::2], state[1::2], strict=True))
            return (found[b"num-other-sentinels"], found[b"num-slaves"]) == (b"2", b"1")

        wait_for(lambda: all(map(known, sentinels)), "the sentinels know one another and the replica")
        processes[0].kill()
        wait_for(lambda: says(app, "SET", "more", "written") == b"OK", "the app writes again")
        wait_for(lambda: says(app, "GET", "state") == b"kept", "what was written before is there")
        found = get(f"{sidecar.admin}/upstreams/redis")[1]["endpoints"]
        assert [it["address"] for it in found] == [f"{SECOND}:{port}"]
