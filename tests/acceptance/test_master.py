"""An app that knows nothing of Sentinel writes through a TCP port that follows the master; the master is killed."""

from __future__ import annotations

import time
from pathlib import Path

from support.processes import Sidecar, ending, get, wait_for
from support.servers import Redis, RedisSentinel, redis_says


def written(port: int) -> bool:
    """Whether a write through the sidecar is acknowledged."""
    try:
        return isinstance(redis_says(port, "INCR", "writes"), int)
    except OSError:
        return False


def test_writes_resume_when_the_failover_is_done(tmp_path: Path) -> None:
    with ending(Redis(tmp_path).ready()) as processes:
        master = processes[0]
        assert isinstance(master, Redis)
        replica = Redis(tmp_path, None, "--replicaof", "127.0.0.1", str(master.port)).ready()
        sentinels = [RedisSentinel(tmp_path, master.port) for _ in range(3)]
        processes += [replica, *sentinels]
        for it in sentinels:
            it.ready()
        wait_for(lambda: all(it.knows_all() for it in sentinels), "the sentinels know each other")
        at = [f"127.0.0.1:{it.port}" for it in sentinels]
        sidecar = Sidecar(
            tmp_path,
            {
                "service": {"name": "web"},
                "registry": "none",
                "upstreams": {
                    "redis": {
                        "bind": "127.0.0.1:0", "protocol": "tcp", "discover": {"sentinel": "mymaster", "at": at},
                    }
                },
            },
        )  # fmt: skip
        processes.append(sidecar)
        port = sidecar.ready().port("redis")
        wait_for(lambda: written(port), sidecar.output)
        found = get(f"{sidecar.admin}/upstreams/redis")[1]
        assert [it["address"] for it in found["endpoints"]] == [f"127.0.0.1:{master.port}"]
        wait_for(lambda: replica.ask("GET", "writes") is not None, "it is replicated")

        master.kill()
        sentinels[0].kill()  # the one that is asked goes, too; two are enough for a failover
        wait_for(lambda: replica.ask("ROLE")[0] == b"master", "the sentinels have made the replica master")
        done = time.monotonic()
        wait_for(lambda: written(port), sidecar.output)
        resumed = time.monotonic() - done
        assert int(replica.ask("GET", "writes")) >= 2
        assert get(f"{sidecar.admin}/upstreams/redis")[1]["endpoints"][0]["address"] == f"127.0.0.1:{replica.port}"
        # A second is what the sidecar has; the rest is for a machine that is busy with other tests.
        assert resumed < 5
        assert sidecar.terminate() == 0
