"""Two real PostgreSQL servers behind a port that leads to the one that accepts writes: the primary is lost, its standby
is promoted, and the old one comes back as if nothing had been."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.health import Unsure
from sidecar.core.secret import Secret
from sidecar.endpoints.postgres_check import Primary
from support.processes import Sidecar, ending, get, wait_for
from support.servers import Postgres

PASSWORD = "a-password-of-tests"
#: Who has to log in how.
ACCESS = [
    "host all watch 127.0.0.1/32 scram-sha-256",
    "host all older 127.0.0.1/32 md5",
    "host all plain 127.0.0.1/32 password",
    "hostssl all tls 127.0.0.1/32 trust",
    "host all tls 127.0.0.1/32 reject",
]


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Postgres, Postgres]]:
    """A primary and its standby."""
    with Postgres(access=ACCESS) as primary:
        made = primary.psql(
            primary.port,
            f"create role watch login password '{PASSWORD}'; create role plain login password '{PASSWORD}'; "
            f"create role tls login; set password_encryption = md5; create role older login password '{PASSWORD}'; "
            "create table written (n serial)",
        )
        assert "ERROR" not in made, made
        with Postgres(follows=primary) as standby:
            yield primary, standby


def asked(server: Postgres, user: str, password: str = PASSWORD) -> str:
    """What a check finds."""
    found = asyncio.run(Primary(user, "postgres", Secret(password)).ask([("127.0.0.1", server.port)]))
    return f"{found.status}: {found.output}"


@pytest.mark.parametrize("user", ["watch", "older", "tester"])
def test_it_logs_in_by_scram_md5_and_without_a_password(servers: tuple[Postgres, Postgres], user: str) -> None:
    primary, standby = servers
    assert asked(primary, user) == "healthy: PostgreSQL: it accepts writes"
    assert asked(standby, user) == "unhealthy: PostgreSQL: it is a standby"


@pytest.mark.parametrize(
    ("user", "password", "words"),
    [
        ("watch", "wrong", "password authentication failed"),
        ("older", "wrong", "password authentication failed"),
        ("watch", "", "wants a password"),
        ("plain", PASSWORD, "clear text"),
        ("tls", "", "checks do not speak TLS"),
        ("nobody", "", "does not exist"),
    ],
)
def test_what_it_is_refused_is_told(servers: tuple[Postgres, Postgres], user: str, password: str, words: str) -> None:
    with pytest.raises(Unsure, match=words):
        asked(servers[0], user, password)


def _config(folder: Path, *servers: Postgres) -> dict[str, Any]:
    (folder / "secret").write_text(PASSWORD)
    check = {"postgres": "primary", "user": "watch", "password": {"file": str(folder / "secret")}}
    upstream = {
        "bind": "127.0.0.1:0",
        "protocol": "tcp",
        "endpoints": [f"127.0.0.1:{server.port}" for server in servers],
        "health": {"check": {**check, "interval": "200ms", "rise": 1}},
        "wait": {"timeout": "10s"},
    }
    return {"service": {"name": "web"}, "registry": "none", "upstreams": {"postgres": upstream}}


def test_what_is_written_goes_to_the_one_that_accepts_it(servers: tuple[Postgres, Postgres], tmp_path: Path) -> None:
    primary, standby = servers
    with ending(Sidecar(tmp_path, _config(tmp_path, standby, primary))) as processes:
        sidecar = processes[0].ready()
        assert isinstance(sidecar, Sidecar)
        port = sidecar.port("postgres")

        def write() -> str:
            return primary.psql(port, "insert into written default values returning n").partition("\n")[0]

        def checks() -> dict[int, str]:
            found = get(f"{sidecar.admin}/upstreams/postgres")[1]["endpoints"]
            return {int(it["address"].rpartition(":")[2]): it["check"]["output"] for it in found if it["check"]}

        # From the first on: who comes before the check waits for it.
        done = [write() for _ in range(5)]
        assert done == ["1", "2", "3", "4", "5"], sidecar.output()
        wait_for(lambda: standby.psql(standby.port, "select count(*) from written") == "5", "it is replicated")

        primary.crash()
        assert standby.psql(standby.port, "select pg_promote()") == "t"
        promoted = time.monotonic()
        assert write().isdigit(), sidecar.output()  # it waits until one accepts writes
        resumed = time.monotonic() - promoted
        print(f"writes resume {resumed:.2f} s after the promotion")
        assert resumed < 5, "two checks; the rest is for a machine that is busy with other tests"

        primary.start()
        assert primary.psql(primary.port, "show transaction_read_only") == "off", "it believes that it is the primary"
        wait_for(lambda: "left behind" in checks().get(primary.port, ""), lambda: str(checks()))
        assert all(write().isdigit() for _ in range(5))
        assert primary.psql(primary.port, "select count(*) from written") == "5", "nothing was written there"
        assert standby.psql(standby.port, "select count(*) from written") == "11"
        assert PASSWORD not in sidecar.output()
