"""A DNS server of the tests' own: UDP on a port that the system chose, with answers that a test changes as it goes."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

A, AAAA = 1, 28
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3


@dataclass(frozen=True, slots=True)
class Zone:
    """What is answered for a name: addresses of both families, or an ``rcode``, or nothing at all (``silent``; or only
    for these types of question)."""

    addresses: Sequence[str] = ()
    ttl: int = 60
    rcode: int = NOERROR
    silent: bool = False
    silent_types: Sequence[int] = ()


class DnsServer:
    """Answers from a thread of its own, so that a test's event loop may be busy or blocked. What is in no zone does not
    exist."""

    def __init__(self) -> None:
        self.zones: dict[str, Zone] = {}
        #: Questions, by name and type.
        self.asked: Counter[tuple[str, int]] = Counter()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, name="dns", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """``host:port``"""
        host, port = self._socket.getsockname()
        return f"{host}:{port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        # A thread in recvfrom is not woken by a close of the socket.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as knock:
            knock.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            if not query:
                return
            answer = self._answer(query)
            if answer is not None:
                self._socket.sendto(answer, client)

    def _answer(self, query: bytes) -> bytes | None:
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode())
            at += 1 + length
        name = ".".join(labels).lower()
        (kind,) = struct.unpack_from(">H", query, at + 1)
        question = query[12 : at + 5]
        self.asked[name, kind] += 1
        zone = self.zones.get(name, Zone(rcode=NXDOMAIN))
        if zone.silent or kind in zone.silent_types:
            return None
        records = [
            b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, zone.ttl, len(address.packed)) + address.packed
            for address in map(ipaddress.ip_address, zone.addresses)
            if (address.version == 4) == (kind == A) and kind in (A, AAAA)
        ]
        header = query[:2] + struct.pack(">HHHHH", 0x8180 | zone.rcode, 1, len(records), 0, 0)
        return header + question + b"".join(records)
