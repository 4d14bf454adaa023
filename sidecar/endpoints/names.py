"""Host names of instances become addresses here, beside the data path, which only ever sees addresses.

    registry, configuration ── instances ──▶ Expansion ── instances with addresses ──▶ Cluster
                                                 ▲
                                     Name: asks, waits for the TTL, asks again

Each name has a loop of its own, shared by everybody who follows it; none waits for another. An address that a name no
longer has leaves the cluster, and its connections are drained. While a resolver fails, what was last known stays in
use: an address that is really gone fails to connect, and is ejected.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from math import lcm
from typing import Final

from sidecar.core.events import EVENTS
from sidecar.core.instance import Instance, OnChange
from sidecar.core.text import printable
from sidecar.net.hosts import BadName, is_address, normal
from sidecar.net.lookup import Answer, LookupFailed, Resolver

log = logging.getLogger("sidecar.names")

#: Names of one upstream that are looked up, and addresses of one name that are used.
MAX_NAMES: Final = 256
MAX_ADDRESSES: Final = 64
#: Addresses of one answer that are looked at for that: each costs a few system calls.
MAX_LOOKED_AT: Final = 256
#: Seconds after the first failed lookup, and the most; doubled each time, and stretched or shortened by up to a fifth.
FIRST_RETRY: Final = 1.0
LONGEST_RETRY: Final = 10.0
#: Seconds for which a name that has had addresses is not believed to have none: what a DNS server says that has just
#: been started, or Docker's of a container that is being replaced.
GRACE: Final = 60.0
#: The most that a lookup is late on purpose, so that many sidecars do not ask together: a share of the TTL, seconds.
LATE: Final = 0.1
LATEST: Final = 0.5
#: The largest weight that comes of sharing weights.
MAX_WEIGHT: Final = 1_000_000

Sleep = Callable[[float], Awaitable[None]]


class Name:
    """What is known of one host name. Made by :class:`Names`."""

    def __init__(self, name: str, names: Names) -> None:
        self.name = name
        self.addresses: tuple[str, ...] = ()
        #: Why the last lookup failed, for people and in one word (:mod:`sidecar.net.causes`); empty when it did not.
        self.error = ""
        self.cause = "lookup_pending"
        #: There was a first answer, or a first failure.
        self.answered = asyncio.Event()
        self._names = names
        self._followers: dict[Callable[[], None], None] = {}
        self._failures = 0
        #: When the last good answer came (of the clock), and since when servers say that there is nothing.
        self._good: float | None = None
        self._missing: float | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def age(self) -> float | None:
        """Seconds since the last good answer; None: there was none."""
        return None if self._good is None else self._names.clock() - self._good

    def follow(self, on_change: Callable[[], None]) -> None:
        """Call ``on_change`` whenever the addresses or the error have changed, but not from in here."""
        self._followers[on_change] = None
        if self._task is None:
            wait = 0.0
            known = self._names.resolver.known(self.name)
            if known is not None:
                wait = self._found(known)
                self.answered.set()
            self._task = asyncio.create_task(self._run(wait), name=f"name {self.name}")

    def leave(self, on_change: Callable[[], None]) -> None:
        """Call it no more. A name that nobody follows is forgotten."""
        self._followers.pop(on_change, None)
        if not self._followers and self._task is not None:
            self._task.cancel()
            self._task = None
            self._names.forget(self)

    async def _run(self, wait: float) -> None:
        while True:
            if wait:
                await self._names.sleep(wait)
            before = (self.addresses, self.error)
            try:
                wait = self._found(await self._names.resolver.resolve(self.name))
            except LookupFailed as error:
                wait = self._failed(str(error), error.missing)
            except Exception as error:
                log.exception("the lookup of %s failed", self.name)
                wait = self._failed(type(error).__name__, False)
            self.answered.set()
            if (self.addresses, self.error) != before:
                for on_change in tuple(self._followers):
                    if on_change in self._followers:
                        on_change()

    def _found(self, answer: Answer) -> float:
        """Take an answer over; seconds until the next lookup."""
        names = self._names
        names.lookups["ok"] += 1
        if self.error:
            EVENTS.tell(log, logging.INFO, "name", f"the name {self.name} resolves again")
        self.error = self.cause = ""
        self._failures = 0
        self._good = names.clock()
        self._missing = None
        addresses = tuple(names.reachable(_order(answer.addresses)[:MAX_LOOKED_AT])[:MAX_ADDRESSES])
        if addresses != self.addresses:
            log.log(
                logging.INFO if self.addresses else logging.DEBUG,
                "the name %s has moved" if self.addresses else "the name %s resolves",
                self.name,
                extra={"addresses": addresses, "before": self.addresses},
            )
            self.addresses = addresses
        ttl = max(names.min_ttl, min(answer.ttl, names.max_ttl))
        return ttl + names.rng.uniform(0.0, min(ttl * LATE, LATEST))

    def _failed(self, error: str, missing: bool) -> float:
        """There was no answer, or that there is nothing; seconds until the next lookup."""
        names = self._names
        names.lookups["missing" if missing else "failed"] += 1
        kept = self.addresses
        if not missing:
            self._missing = None
        elif self._missing is None:
            self._missing = names.clock()
        elif names.clock() - self._missing >= GRACE:
            self.addresses = ()
        if error != self.error or kept != self.addresses:
            kept_on = "; its last addresses stay in use" if self.addresses else ""
            EVENTS.tell(log, logging.WARNING, "name", f"the name {self.name} does not resolve: {error}{kept_on}")
        self.error = error
        self.cause = "no_such_name" if missing else "lookup_failed"
        self._failures += 1
        delay = min(FIRST_RETRY * 2.0 ** min(self._failures - 1, 16), LONGEST_RETRY)
        return delay * names.rng.uniform(0.8, 1.2)


class Names:
    """All names that a sidecar looks up. ``min_ttl`` and ``max_ttl`` bound the seconds after which one is looked up
    again. ``reachable`` keeps of a name's addresses those that this host has a route
    to; ``sleep`` and ``clock`` are the event loop's."""

    def __init__(
        self,
        resolver: Resolver,
        min_ttl: float,
        max_ttl: float,
        *,
        reachable: Callable[[Sequence[str]], Sequence[str]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.min_ttl = min_ttl
        self.max_ttl = max_ttl
        self.resolver = resolver
        self.reachable = reachable or with_route
        self.clock = clock
        self.sleep = sleep
        self.rng = rng or random.Random()
        #: Lookups by what came of them: ``ok``, ``missing`` (a server says that there is nothing) or ``failed``.
        self.lookups: Counter[str] = Counter(ok=0, missing=0, failed=0)
        self._names: dict[str, Name] = {}

    @property
    def known(self) -> Sequence[Name]:
        """Those that are followed."""
        return tuple(self._names.values())

    def get(self, name: str) -> Name:
        """The name, to be followed."""
        found = self._names.get(name)
        if found is None:
            found = self._names[name] = Name(name, self)
        return found

    def forget(self, name: Name) -> None:
        if self._names.get(name.name) is name:
            del self._names[name.name]

    async def answered(self) -> None:
        """Returns when each name that is followed now has had its first answer, or its first failure."""
        for name in self.known:
            await name.answered.wait()

    async def close(self) -> None:
        """End all lookups. Everybody who follows has to have left."""
        await self.resolver.close()


class Expansion:
    """One upstream's instances, with addresses for host names. ``where`` stands in the log."""

    def __init__(self, names: Names, where: str, on_change: OnChange) -> None:
        self._names = names
        self._where = where
        self._on_change = on_change
        self._instances: tuple[Instance, ...] = ()
        self._followed: dict[str, Name] = {}
        self._refused: dict[str, str] = {}
        self._told: tuple[Instance, ...] | None = None

    @property
    def names(self) -> Sequence[Name]:
        """The names that stand in this upstream's instances."""
        return tuple(self._followed.values())

    @property
    def pending(self) -> bool:
        """Whether some of them have had neither a first answer nor a first failure."""
        return any(not name.answered.is_set() for name in self._followed.values())

    @property
    def problem(self) -> str:
        """Why there is no address; empty when nothing is wrong with the names."""
        found = [f"{_short(host)} {text}" for host, text in self._refused.items()]
        found += [
            f"{name.name} does not resolve: {name.error}" if name.error else f"{name.name} is being looked up"
            for name in self._followed.values()
            if not name.addresses
        ]
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        return "; ".join(found[:3]) + more

    @property
    def cause(self) -> str:
        """The word for :attr:`problem`, of :mod:`sidecar.net.causes`; empty when nothing is wrong with the names."""
        if self._refused:
            return "no_such_name"
        return next((name.cause for name in self._followed.values() if not name.addresses), "")

    def update(self, instances: Iterable[Instance]) -> None:
        """Take over a new set. Those with addresses count at once."""
        kept: list[Instance] = []
        wanted: dict[str, None] = {}
        refused: dict[str, str] = {}
        for instance in instances:
            host = instance.host
            if not is_address(host):
                try:
                    host = normal(host)
                except BadName as error:
                    refused[host] = str(error)
                    continue
                if host not in wanted and len(wanted) >= MAX_NAMES:
                    refused[host] = f"is one name too many: {MAX_NAMES} are looked up"
                    continue
                wanted[host] = None
                if host != instance.host:
                    instance = replace(instance, host=host)
            kept.append(instance)
        self._refuse(refused)
        self._instances = tuple(kept)
        before = self._followed
        self._followed = {host: before.get(host) or self._names.get(host) for host in wanted}
        for host, name in self._followed.items():
            if host not in before:
                name.follow(self._tell)
        for host, name in before.items():
            if host not in self._followed:
                name.leave(self._tell)
        self._tell()

    def close(self) -> None:
        """Follow no name any more."""
        followed, self._followed = self._followed, {}
        for name in followed.values():
            name.leave(self._tell)

    def _refuse(self, refused: dict[str, str]) -> None:
        for host, text in refused.items():
            if host not in self._refused:
                log.warning("%s: the host %s %s; it is left out", self._where, _short(host), text)
        self._refused = refused

    def _tell(self) -> None:
        expanded = tuple(self._expanded())
        if self.pending and not expanded and self._told:
            return  # other names have come in: until they are known, what there was is better than nothing
        self._told = expanded
        self._on_change(expanded)

    def _expanded(self) -> Iterable[Instance]:
        sizes = {name.name: len(name.addresses) for name in self._followed.values() if name.addresses}
        share = lcm(*sizes.values()) if sizes else 1
        if len(self._instances) == 1 or share * max((i.weight for i in self._instances), default=0) > MAX_WEIGHT:
            share = 0  # nothing to share with, or not in numbers of a sensible size: each address has the whole weight
        for instance in self._instances:
            name = self._followed.get(instance.host)
            if name is None:
                yield replace(instance, weight=instance.weight * share) if share > 1 else instance
                continue
            weight = instance.weight * share // len(name.addresses) if share and name.addresses else instance.weight
            for address in name.addresses:
                yield replace(instance, host=address, hostname=name.name, weight=weight)


def with_route(addresses: Sequence[str]) -> Sequence[str]:
    """Those addresses that this host could send to at all, as ``AI_ADDRCONFIG`` means (RFC 3493 §6.1): without IPv6,
    IPv6 addresses would be endpoints that always fail. All, when it is none. Nothing is sent."""
    return [address for address in addresses if _has_route(address)] or addresses


def _has_route(address: str) -> bool:
    try:
        family, kind, _, _, target = socket.getaddrinfo(
            address, 53, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )[0]
        with contextlib.closing(socket.socket(family, kind)) as probe:
            probe.connect(target)
    except OSError:
        return False
    return True


def _order(addresses: Sequence[str]) -> tuple[str, ...]:
    """The same order whatever the server's: those rotate it, which is no change."""
    return tuple(sorted(dict.fromkeys(addresses), key=lambda a: (ipaddress.ip_address(a).version, a)))


def _short(host: str) -> str:
    return printable(repr(host), 80)
