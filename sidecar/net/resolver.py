"""Looks host names up: in the hosts file, then in the DNS, in the order that containers have."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from sidecar.net.hosts import HostsFile
from sidecar.net.lookup import Answer

if TYPE_CHECKING:
    from sidecar.net.dns import Dns

#: Seconds that an answer of the hosts file counts for.
HOSTS_TTL: Final = 2.0


class SystemResolver:
    """The hosts file and the DNS: see :class:`sidecar.net.dns.Dns` for ``servers`` and ``timeout``. An answer is used
    for ``max_ttl`` seconds at most."""

    def __init__(
        self,
        servers: Sequence[str],
        timeout: float,
        max_ttl: float,
        *,
        hosts: HostsFile | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = servers
        self._timeout = timeout
        self._max_ttl = max_ttl
        self._hosts = hosts or HostsFile()
        self._clock = clock
        self._dns: Dns | None = None

    def known(self, name: str) -> Answer | None:
        addresses = self._hosts.find(name)
        return Answer(addresses, HOSTS_TTL) if addresses else None

    async def resolve(self, name: str) -> Answer:
        known = self.known(name)
        if known is not None:
            return known
        if self._dns is None:
            # Only who asks a server needs c-ares, which takes 1.5 MiB.
            from sidecar.net.dns import Dns

            self._dns = Dns(self._servers, self._timeout, self._max_ttl, self._clock)
        return await self._dns.ask(name)

    async def close(self) -> None:
        dns, self._dns = self._dns, None
        if dns is not None:
            await dns.close()
