"""Looks host names up: in the hosts file, then in the DNS by c-ares, in the order that containers have.

c-ares asks for A and AAAA records at once, honours search domains and ``ndots`` of ``resolv.conf`` (and notices when
that changes), goes on to the next server when one is silent, and has a thread of its own: a lookup that gets no answer
costs a pending question, and no other lookup waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import aiodns
import pycares

from sidecar.net.hosts import HostsFile, is_one_host

#: Seconds that an answer of the hosts file counts for.
HOSTS_TTL: Final = 2.0
#: How often each server is asked, the second time with twice the patience.
TRIES: Final = 2
#: What may be left of a lookup that c-ares does not end by itself, seconds.
LONGEST: Final = 60.0

#: Errors that are the answer of a server: there is no such name, or it has no address.
_MISSING: Final = {
    aiodns.error.ARES_ENOTFOUND: "there is no such name",
    aiodns.error.ARES_ENODATA: "it has no address",
}
_FAILED: Final = {
    aiodns.error.ARES_ETIMEOUT: "no DNS server has answered in time",
    aiodns.error.ARES_ESERVFAIL: "the DNS server has failed to find out",
    aiodns.error.ARES_EREFUSED: "the DNS server refuses to say",
    aiodns.error.ARES_ECONNREFUSED: "no DNS server can be reached",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A name's addresses and for how many seconds they may be used."""

    addresses: tuple[str, ...]
    ttl: float


class LookupFailed(Exception):
    """No addresses. The text says why; ``missing``: a server says that there are none."""

    def __init__(self, text: str, *, missing: bool = False) -> None:
        super().__init__(text)
        self.missing = missing


class Resolver(Protocol):
    """Finds the addresses of names. Lookups do not wait for each other."""

    def known(self, name: str) -> Answer | None:
        """What can be said at once, without asking anybody; None: nothing."""
        ...

    async def resolve(self, name: str) -> Answer:
        """Ask. Bounded in time; raises :class:`LookupFailed`."""
        ...

    async def close(self) -> None:
        """End what is under way."""
        ...


class SystemResolver:
    """The hosts file and the DNS. ``servers`` (addresses with ports) stand for those of ``resolv.conf``; each has
    ``timeout`` seconds for its first answer. An answer is used for ``max_ttl`` seconds at most. Nothing is started
    before the first question to a server."""

    def __init__(
        self,
        servers: Sequence[str],
        timeout: float,
        max_ttl: float,
        *,
        hosts: HostsFile | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = list(servers)
        self._timeout = timeout
        self._max_ttl = max_ttl
        self._hosts = hosts or HostsFile()
        self._clock = clock
        self._dns: aiodns.DNSResolver | None = None
        self._made = 0.0

    def known(self, name: str) -> Answer | None:
        addresses = self._hosts.find(name)
        return Answer(addresses, HOSTS_TTL) if addresses else None

    async def resolve(self, name: str) -> Answer:
        known = self.known(name)
        if known is not None:
            return known
        try:
            dns = self._channel()  # held, because c-ares ends the questions of one that nobody holds
            async with asyncio.timeout(LONGEST):
                found = await dns.getaddrinfo(name)
        except TimeoutError:
            raise LookupFailed(_FAILED[aiodns.error.ARES_ETIMEOUT]) from None
        except aiodns.error.DNSError as error:
            code = error.args[0]
            missing = _MISSING.get(code)
            raise LookupFailed(
                missing or _FAILED.get(code) or str(error.args[-1]), missing=missing is not None
            ) from None
        except pycares.AresError as error:
            raise LookupFailed(f"the resolver does not work: {error}") from None
        addresses = tuple(address for address in dict.fromkeys(map(_text, found.nodes)) if is_one_host(address))
        if not addresses:
            raise LookupFailed("it has no address of a host", missing=True)
        ttl = min([node.ttl for node in found.nodes] + [alias.ttl for alias in found.cnames], default=0)
        return Answer(addresses, float(ttl))

    async def close(self) -> None:
        dns, self._dns = self._dns, None
        if dns is not None:
            await dns.close()

    def _channel(self) -> aiodns.DNSResolver:
        """c-ares keeps answers for their whole TTL, which ``max_ttl`` is to be stronger than; a new channel knows
        nothing. The old one ends with the last question to it."""
        now = self._clock()
        if self._dns is None or now - self._made >= self._max_ttl:
            self._made = now
            # Without ``lookups``: pycares 5.2 frees that text before c-ares has read it.
            self._dns = aiodns.DNSResolver(
                nameservers=self._servers or None,
                timeout=self._timeout,
                tries=TRIES,
            )
        return self._dns


def _text(node: pycares.AddrInfoNode) -> str:
    host = node.addr[0]
    text = host.decode("ascii") if isinstance(host, bytes) else str(host)
    return f"{text}%{node.addr[3]}" if len(node.addr) > 3 and node.addr[3] else text
