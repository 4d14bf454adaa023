"""Asks DNS servers by c-ares.

c-ares asks for A and AAAA records at once, honours search domains and ``ndots`` of ``resolv.conf`` (and notices when
that changes), goes on to the next server when one is silent, and has a thread of its own: a lookup that gets no answer
costs a pending question, and no other lookup waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import aiodns
import pycares

from sidecar.net.hosts import is_one_host
from sidecar.net.lookup import Answer, LookupFailed

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


class Dns:
    """``servers`` (addresses with ports) stand for those of ``resolv.conf``; each has ``timeout`` seconds for its first
    answer. Nothing is started before the first question."""

    def __init__(self, servers: Sequence[str], timeout: float, max_ttl: float, clock: Callable[[], float]) -> None:
        self._servers = list(servers)
        self._timeout = timeout
        self._max_ttl = max_ttl
        self._clock = clock
        self._dns: aiodns.DNSResolver | None = None
        self._made = 0.0

    async def ask(self, name: str) -> Answer:
        """Bounded in time; raises :class:`LookupFailed`."""
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
        """End what is under way."""
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
