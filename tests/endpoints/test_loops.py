"""Which endpoints are the sidecar's own listeners."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from sidecar.core.address import Address
from sidecar.core.instance import Instance
from sidecar.endpoints.loops import apart, is_local, reaches


def looped(host: str, bind: str, port: int = 80, bind_port: int = 80) -> bool:
    ours = ("127.0.0.1", "127.0.0.2", "::1", "10.0.0.5", "fd00::5")
    good, loops = apart(
        [Instance(host=host, port=port)],
        [Address(bind, bind_port)],
        local=lambda ip: str(ip) in ours or ip.is_unspecified,
    )
    assert len(good) + len(loops) == 1
    return bool(loops)


@pytest.mark.parametrize(
    ("host", "bind"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("LOCALHOST.", "::1"),
        ("127.0.0.1", "localhost"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("127.0.0.2", "0.0.0.0"),
        ("10.0.0.5", "0.0.0.0"),
        ("10.0.0.5", "::"),
        ("::ffff:10.0.0.5", "0.0.0.0"),
        ("fd00::5", "::"),
        ("10.0.0.5", "10.0.0.5"),
    ],
)
def test_where_the_sidecar_listens_is_a_loop(host: str, bind: str) -> None:
    assert looped(host, bind)
    assert not looped(host, bind, port=81)


@pytest.mark.parametrize(
    ("host", "bind"),
    [
        ("127.0.0.2", "127.0.0.1"),
        ("10.0.0.5", "127.0.0.1"),
        ("10.0.0.6", "0.0.0.0"),
        ("fd00::5", "0.0.0.0"),
        ("::1", "127.0.0.1"),
        ("web", "0.0.0.0"),
    ],
)
def test_what_is_elsewhere_is_none(host: str, bind: str) -> None:
    assert not looped(host, bind)


def test_this_machines_own_addresses_are_known() -> None:
    assert is_local(ipaddress.ip_address("127.0.0.1"))
    assert is_local(ipaddress.ip_address("127.9.9.9"))
    assert is_local(ipaddress.ip_address("::1"))
    assert not is_local(ipaddress.ip_address("192.0.2.1"))  # TEST-NET-1 (RFC 5737)
    assert not is_local(ipaddress.ip_address("2001:db8::1"))  # RFC 3849
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return  # this machine has no other address
        own = probe.getsockname()[0]
    assert is_local(ipaddress.ip_address(own))
    assert reaches(Address(own, 80), [Address("0.0.0.0", 80)])
