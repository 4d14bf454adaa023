"""Follows the master of a name, as Sentinel tells it, for ports whose apps speak to Redis themselves.

A connection to one sentinel is asked again and again; when it breaks or says nothing, the next one is asked. What a
sentinel says is checked at the server itself (``ROLE``), because for a while after a failover it may name the old one.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from sidecar.core.address import Address
from sidecar.net.causes import words_for
from sidecar.net.lookup import Resolver
from sidecar.redis.connection import SAYS, Connection, open_connection
from sidecar.redis.sentinel import SECONDS, address_of
from sidecar.redis.settings import Settings, Trouble

logger = logging.getLogger("sidecar.upstreams")

#: Seconds between two questions, and the longest pause after all sentinels have failed.
PAUSE: Final = 0.25
LONGEST: Final = 2.0


class MasterWatch:
    """``on_change`` is called with the master's address when it is another one than before; while nobody knows one, the
    last one stays. ``up``: a sentinel answers; ``trouble`` says what is wrong, if something is."""

    def __init__(
        self,
        name: str,
        at: Sequence[Address],
        resolver: Resolver,
        on_change: Callable[[Address], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.master: Address | None = None
        self.up = False
        self.trouble = ""
        self._order = list(at)
        self._resolver = resolver
        self._on_change = on_change
        self._sleep = sleep
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"master {name}")

    def stop(self) -> None:
        """Ask no more."""
        self._task.cancel()

    async def _run(self) -> None:
        pause = PAUSE
        while True:
            troubles: list[str] = []
            for address in list(self._order):
                trouble = await self._follow(address)
                if self.up:  # it was a good one: begin again with the next
                    self.up, pause = False, PAUSE
                    self._order.append(self._order.pop(self._order.index(address)))
                    troubles.clear()
                troubles.append(f"{address}: {trouble}")
            self._tell(f"no sentinel tells the master {self.name!r} ({'; '.join(troubles[:3])})")
            await self._sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, LONGEST)

    async def _follow(self, sentinel: Address) -> str:
        """Ask that one for as long as it answers; why it no longer does."""
        try:
            async with asyncio.timeout(SECONDS):
                connection = await open_connection(sentinel, _settings(sentinel), self._resolver, SECONDS)
        except TimeoutError:
            return f"no answer within {SECONDS:g} s"
        except Trouble as error:
            return str(error)
        except OSError as error:
            return words_for(error)
        try:
            while True:
                found = await self._ask(connection)
                self.up = True
                if found != self.master:
                    await self._check(found)
                else:
                    self._tell("")
                await self._sleep(PAUSE)
        except Trouble as error:
            return str(error)
        finally:
            connection.end("done")

    async def _ask(self, connection: Connection) -> Address:
        found = await connection.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
        if found is None:
            raise Trouble("it knows no such master")
        return address_of(found)

    async def _check(self, found: Address) -> None:
        """Go over to that one if it says itself that it is the master, or says nothing to strangers."""
        try:
            async with asyncio.timeout(SECONDS):
                connection = await open_connection(found, _settings(found), self._resolver, SECONDS)
                try:
                    role = await connection.call("ROLE")
                finally:
                    connection.end("done")
        except TimeoutError:
            self._tell(f"{found}, which the sentinels name, does not answer")
            return
        except OSError as error:
            self._tell(f"{found}, which the sentinels name, cannot be reached: {words_for(error)}")
            return
        except Trouble as error:
            if not str(error).startswith(f"{SAYS}NOAUTH"):
                self._tell(f"{found}, which the sentinels name: {error}")
                return
            role = [b"master"]
        if not isinstance(role, list) or role[:1] != [b"master"]:
            self._tell(f"{found} is no master (yet), though a sentinel says so")
            return
        before, self.master = self.master, found
        logger.info("master %s is at %s", self.name, found, extra={"before": str(before) if before else ""})
        self._tell("")
        self._on_change(found)

    def _tell(self, trouble: str) -> None:
        """A line of the log where it has changed."""
        if trouble != self.trouble:
            self.trouble = trouble
            if trouble:
                logger.warning("master %s: %s", self.name, trouble)
            else:
                logger.info("master %s: the sentinels agree with it again", self.name)


def _settings(address: Address) -> Settings:
    """Without a login: sentinels and ``ROLE`` are asked for nothing else."""
    return Settings(addresses=(address,))
