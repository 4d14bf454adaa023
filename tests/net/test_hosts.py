from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar.net.hosts import BadName, HostsFile, is_address, is_local, normal


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%eth0", "::ffff:10.0.0.1"])
def test_addresses(host: str) -> None:
    assert is_address(host)


@pytest.mark.parametrize("host", ["localhost", "127.1", "[::1]", "1.2.3.4.", ""])
def test_what_is_no_address(host: str) -> None:
    assert not is_address(host)


@pytest.mark.parametrize(
    "host", ["a", "db.ns.svc.cluster.local.", "under_score.test", "x" * 63 + ".test", "3com.example"]
)
def test_names(host: str) -> None:
    assert normal(host.upper()) == host


@pytest.mark.parametrize(
    "host",
    ["", ".", "a..b", ".a", "a b", "a\n", "-a", "a-", "x" * 64, "127.1", "1.2.3.4.", "0x7f.0x1", "[::1]", "bü.test",
     "a/b", ".".join(["x" * 60] * 5), "a:80", "\ud800"],
)  # fmt: skip
def test_what_is_no_name(host: str) -> None:
    with pytest.raises(BadName):
        normal(host)


def test_local_names() -> None:
    assert is_local("localhost")
    assert is_local("app.localhost.")
    assert not is_local("localhost.test")


def test_a_hosts_file(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(
        "# a comment\n127.0.0.1 localhost\n10.0.0.1\tDB.test db # the database\n\nfd00::1 db.test\n10.0.0.1 db.test\n"
        "not-an-address odd.test\n0.0.0.0 odd.test\n10.0.0.2\n"
    )
    hosts = HostsFile(path)
    assert hosts.find("db.test") == hosts.find("db.test.") == ("10.0.0.1", "fd00::1")
    assert hosts.find("db") == ("10.0.0.1",)
    assert hosts.find("odd.test") == ()
    assert hosts.find("localhost") == ("127.0.0.1",)
    assert hosts.find("app.localhost") == ("127.0.0.1", "::1")


def test_a_changed_hosts_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("10.0.0.1 a.test\n")
    hosts = HostsFile(path)
    assert hosts.find("a.test") == ("10.0.0.1",)
    path.write_text("10.0.0.2 a.test\n")
    os.utime(path, ns=(1, 1))
    assert hosts.find("a.test") == ("10.0.0.2",)
    other = tmp_path / "other"
    other.write_text("10.0.0.3 a.test\n")
    os.utime(other, ns=(1, 1))
    other.replace(path)  # another file of the same age and size
    assert hosts.find("a.test") == ("10.0.0.3",)
    path.unlink()
    assert hosts.find("a.test") == ()
    assert hosts.find("localhost") == ("127.0.0.1", "::1")


def test_a_hosts_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"\xff\xfe\n10.0.0.1 a.test\n")
    assert HostsFile(path).find("a.test") == ("10.0.0.1",)


def test_the_beginning_of_a_large_hosts_file_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "hosts"
    path.write_text("10.0.0.1 a.test\n" + "# filler\n" * 120_000 + "10.0.0.2 z.test\n")
    hosts = HostsFile(path)
    assert (hosts.find("a.test"), hosts.find("z.test")) == (("10.0.0.1",), ())
    assert "too large" in caplog.text
