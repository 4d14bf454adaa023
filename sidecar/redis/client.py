"""Runs scripts, each about one key, at the server that has the key: the only one, the master, or a node of a cluster.

A cluster shows itself: a node that has not the key says which one does (``MOVED``, ``ASK``), and that is remembered for
the key's slot (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/).
"""

from __future__ import annotations

import asyncio
import random
from binascii import crc_hqx
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha1
from typing import Final

from sidecar.core.address import Address
from sidecar.net.lookup import Resolver
from sidecar.redis.connection import LOST, SAYS, Connection, log_in, open_connection, said
from sidecar.redis.node import Node
from sidecar.redis.resp import ErrorReply, Reply, encode
from sidecar.redis.sentinel import Sentinels, address_of
from sidecar.redis.settings import CONNECT, Settings, Trouble

#: Slots of a cluster, nodes that are remembered, and how often a question may be sent elsewhere.
SLOTS: Final = 16384
MOST_NODES: Final = 64
MOST_REDIRECTS: Final = 3
#: What a node of a cluster says of keys that it has not: then it is fine.
_ELSEWHERE: Final = (f"{SAYS}MOVED ", f"{SAYS}ASK ")


class Script:
    """A Lua script. Its text is sent where a server does not know it by its hash."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


class Client:
    """``probe`` is a script with its key and arguments, which has to work before a server counts as up. ``changed(up,
    text)`` is called when that changes. Inside a running loop only."""

    def __init__(
        self,
        settings: Settings,
        resolver: Resolver,
        rng: random.Random,
        probe: tuple[Script, str, Sequence[str | int]],
        changed: Callable[[bool, str], None],
    ) -> None:
        self.settings = settings
        self._resolver = resolver
        self._rng = rng
        self._probe = probe
        self._changed = changed
        self._sentinels = Sentinels(settings, resolver) if settings.sentinel else None
        self._turn = 0
        self._at = settings.addresses[0]
        self._closing: set[asyncio.Task[None]] = set()
        #: Where the first connection leads at present, for people.
        self.where = ", ".join(str(it) for it in settings.addresses)
        self._home = self._node(self._open_home, self.where)
        #: Of a cluster: its nodes by address, and which has a slot. The first connection is one beside them.
        self._nodes: dict[Address, Node] = {}
        self._slots: dict[int, Node] = {}

    @property
    def up(self) -> bool:
        """Whether all servers in use can be asked."""
        return self._home.up and all(node.up for node in self._nodes.values())

    @property
    def trouble(self) -> str:
        """Why not; empty: they can, or nobody knows yet."""
        return next((it.trouble for it in (self._home, *self._nodes.values()) if it.trouble), "")

    @property
    def nodes(self) -> int:
        """Nodes that others have named; 0: it is no cluster, or not known to be one yet."""
        return len(self._nodes)

    async def answered(self) -> None:
        """Wait until the first attempt to connect has an outcome."""
        await self._home.answered.wait()

    async def close(self) -> None:
        """Close all connections."""
        for node in (self._home, *self._nodes.values()):
            await node.close()
        if self._closing:
            await asyncio.wait(self._closing)

    def run(self, script: Script, key: str, words: Sequence[str | int], then: Callable[[Reply], None]) -> bool:
        """Run the script for that key, which has no braces in it, at the server that has it. ``then`` is called once
        with what it returns, or with an :class:`ErrorReply`, not from in here. Return False when no server can be
        asked."""
        return _Run(self, script, key, words, then).send(self._of(key))

    def _of(self, key: str) -> Node:
        if not self._slots:
            return self._home
        node = self._slots.get(slot_of(key))
        if node is not None and node.up:
            return node
        # Its replica may have become the master: another node will say so.
        return next((it for it in (self._home, *self._nodes.values()) if it.up), self._home)

    def moved(self, slot: str, where: str, asked: Node, *, stays: bool) -> Node | None:
        """The node that a server has named. ``stays``: it is the one for that slot from now on."""
        host, _, port = where.rpartition(":")
        if not host:  # "the same as this one"
            host = next((it.host for it, node in self._nodes.items() if node is asked), self._at.host)
        try:
            address = address_of([host.strip("[]").encode(), port.encode()])
            number = int(slot)
        except (Trouble, ValueError):
            return None
        node = self._nodes.get(address)
        if node is None:
            if len(self._nodes) >= MOST_NODES and not self._forget():
                return None
            node = self._nodes[address] = self._node(lambda: self._open(address), str(address))
        if stays and 0 <= number < SLOTS:
            before = self._slots.get(number)
            self._slots[number] = node
            if before is not None and before.trouble and before not in self._slots.values():
                self._drop(before)  # another one has taken its place
        return node

    def _forget(self) -> bool:
        """Let go of a node that is away."""
        away = next((node for node in self._nodes.values() if node.trouble), None)
        if away is not None:
            self._drop(away)
        return away is not None

    def _drop(self, node: Node) -> None:
        self._nodes = {address: it for address, it in self._nodes.items() if it is not node}
        self._slots = {slot: it for slot, it in self._slots.items() if it is not node}
        task = asyncio.get_running_loop().create_task(node.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _node(self, opened: Callable[[], Awaitable[Connection]], where: str) -> Node:
        def changed(up: bool, text: str) -> None:
            self._changed(up, f"{where}: {text}" if text else where)

        return Node(opened, self.settings.timeout, self._rng, changed)

    # -- connecting ----------------------------------------------------------------------------------------------------

    async def _open_home(self) -> Connection:
        if self._sentinels is not None:
            self._at = await self._sentinels.master()
        else:
            addresses = (*self.settings.addresses, *self._nodes)
            self._at = addresses[self._turn % len(addresses)]
            self._turn += 1
        return await self._open(self._at)

    async def _open(self, address: Address) -> Connection:
        """Connect, log in, and see that scripts run. Raises :class:`Trouble`, OSError."""
        settings = self.settings
        connection = await open_connection(address, settings, self._resolver, CONNECT)
        try:
            await log_in(connection, settings)
            if settings.database:
                await connection.call("SELECT", settings.database)
            if self._sentinels is not None:
                role = await connection.call("ROLE")
                if not isinstance(role, list) or role[:1] != [b"master"]:
                    raise Trouble(f"{address} is no master (yet), though a sentinel says so")
            script, key, words = self._probe
            try:
                await connection.call("EVAL", script.text, 1, key, *words)
            except Trouble as error:
                if not str(error).startswith(_ELSEWHERE):
                    raise
        except BaseException:
            connection.end("it cannot be used")
            raise
        connection.timeout = settings.timeout
        return connection


class _Run:
    """A script on its way, perhaps by way of several nodes."""

    __slots__ = ("_client", "_key", "_node", "_redirects", "_script", "_then", "_words")

    def __init__(
        self, client: Client, script: Script, key: str, words: Sequence[str | int], then: Callable[[Reply], None]
    ) -> None:
        self._client = client
        self._script = script
        self._key = key
        self._words = words
        self._then = then
        self._redirects = 0
        self._node: Node | None = None

    def send(self, node: Node, *, whole: bool = False) -> bool:
        self._node = node
        script = self._script
        how = ("EVAL", script.text) if whole else ("EVALSHA", script.sha)
        return node.send(encode(*how, 1, self._key, *self._words), self._done)

    def _done(self, reply: Reply) -> None:
        if not isinstance(reply, ErrorReply) or not self._elsewhere(reply):
            self._then(reply)

    def _elsewhere(self, error: ErrorReply) -> bool:
        """Send it again, if that error asks for it."""
        node = self._node
        assert node is not None
        if error is LOST or self._redirects >= MOST_REDIRECTS:
            return False
        self._redirects += 1
        if error.kind == "NOSCRIPT":
            return self.send(node, whole=True)
        words = error.text.split(" ")
        if error.kind in ("MOVED", "ASK") and len(words) == 3:
            there = self._client.moved(words[1], words[2], node, stays=error.kind == "MOVED")
            if there is None:
                return False
            if error.kind == "ASK" and not there.send(encode("ASKING"), _ignore):
                return False
            return self.send(there)
        # Nothing that the next question would not meet with, too: no longer the master, no memory, no permission.
        node.lose(said(error))
        return False


def _ignore(reply: Reply) -> None:
    """The one for ``ASKING``."""


def slot_of(key: str) -> int:
    """The slot that a key without braces belongs to: its CRC-16 (XMODEM), which ``crc_hqx`` is."""
    return crc_hqx(key.encode(), 0) % SLOTS
