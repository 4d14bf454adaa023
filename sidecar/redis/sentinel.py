"""Asks Sentinel which server is the master (https://redis.io/docs/latest/develop/reference/sentinel-clients/).

A sentinel that does not answer is passed over, and one that has answered is asked first the next time. What they say is
checked at the server itself (``ROLE``): for a while after a failover they may name the old one.
"""

from __future__ import annotations

import asyncio
from typing import Final

from sidecar.core.address import Address
from sidecar.net.causes import words_for
from sidecar.net.lookup import Resolver
from sidecar.redis.connection import Connection, log_in, open_connection
from sidecar.redis.settings import Settings, Trouble

#: Seconds that one sentinel has.
SECONDS: Final = 0.5


class Sentinels:
    """Those of ``settings.addresses``, and the master that they watch by the name ``settings.sentinel``."""

    def __init__(self, settings: Settings, resolver: Resolver) -> None:
        self._settings = settings
        self._resolver = resolver
        self._order = list(settings.addresses)

    async def master(self) -> Address:
        """Where it is. Raises :class:`Trouble` when no sentinel knows."""
        troubles = []
        for address in list(self._order):
            try:
                async with asyncio.timeout(SECONDS):
                    found = await self._ask(address)
            except TimeoutError:
                troubles.append(f"{address}: no answer within {SECONDS:g} s")
            except Trouble as error:
                troubles.append(f"{address}: {error}")
            except OSError as error:
                troubles.append(f"{address}: {words_for(error)}")
            else:
                self._order.remove(address)
                self._order.insert(0, address)
                return found
        raise Trouble(f"no sentinel names a master {self._settings.sentinel!r} ({'; '.join(troubles[:3])})")

    async def _ask(self, address: Address) -> Address:
        connection = await open_connection(address, self._settings, self._resolver, SECONDS)
        try:
            try:
                return await self._master(connection)
            except Trouble as error:
                if "NOAUTH" not in str(error):
                    raise
                await log_in(connection, self._settings)  # only who asks for a password gets it
                return await self._master(connection)
        finally:
            connection.end("done")

    async def _master(self, connection: Connection) -> Address:
        found = await connection.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._settings.sentinel)
        if found is None:
            raise Trouble("it knows no such master")
        return address_of(found)


def address_of(found: object) -> Address:
    """A host and a port, as servers tell them. Raises :class:`Trouble`."""
    if isinstance(found, list) and len(found) >= 2:
        host, port = found[0], found[1]
        if isinstance(host, bytes) and isinstance(port, (bytes, int)):
            try:
                address = Address(host.decode("ascii"), int(port))
            except ValueError:
                pass
            else:
                if 0 < len(address.host) <= 253 and address.host.isprintable() and 0 < address.port < 65536:
                    return address
    raise Trouble("it names an address that is none")
