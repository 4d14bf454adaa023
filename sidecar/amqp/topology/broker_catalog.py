"""What the broker has answered well, so that it can be answered without it: declarations and bindings, and how the
broker introduces itself (connection.start and connection.tune, AMQP 0-9-1 §1.4.2.1 and 1.4.2.5).

It is a memory, not a truth: somebody else may have deleted a queue since. Whatever is answered out of it is declared
to the broker as soon as there is one (recovery.py), so the worst is a queue that is made again.
"""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sidecar.amqp.topology.declarations import EXCHANGE, QUEUE, Declaration, exists, from_wire
from sidecar.amqp.wire.constants import CONNECTION_START, CONNECTION_TUNE, EXCHANGE_DECLARE, QUEUE_DECLARE, AmqpError
from sidecar.amqp.wire.methods import Arguments
from sidecar.storage.json_file import Kept, Notebook

#: What is remembered at most; beyond it, what was confirmed the longest ago is forgotten, and first of all what ends by
#: itself (answer queues, say).
MAX_DECLARATIONS: Final = 10_000
MAX_BYTES: Final = 4 * 1024 * 1024
#: No broker says more about itself.
MAX_START: Final = 16_384
#: The file: everything in base64, and names of vhosts.
MAX_FILE: Final = 8 * MAX_BYTES

_EXCHANGES: Final = ("amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match")


class BrokerCatalog(Kept):
    """What is known of one broker (or cluster), in all vhosts."""

    __slots__ = ("_bytes", "_declarations", "_names", "_transient", "start", "tune")

    def __init__(self, path: Path | None = None, wall: Callable[[], float] = time.time) -> None:
        """``path`` is the file that remembers it over a restart."""
        notebook = Notebook(path, "what is known of the broker", MAX_FILE, wall) if path is not None else None
        Kept.__init__(self, notebook)
        #: (vhost, key) → the declaration, the one confirmed the longest ago first.
        self._declarations: OrderedDict[tuple[str, bytes], Declaration] = OrderedDict()
        #: Those of them that say of something that it ends by itself.
        self._transient: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        #: (vhost, kind and name) → the keys of the declarations about it.
        self._names: dict[tuple[str, str], set[bytes]] = {}
        self._bytes = 0
        #: The arguments of the broker's connection.start; empty: not met yet.
        self.start = b""
        #: Its channel-max, frame-max, heartbeat.
        self.tune: tuple[int, int, int] | None = None

    # -- declarations --------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many declarations."""
        return len(self._declarations)

    def knows(self, vhost: str, declaration: Declaration) -> bool:
        """Whether the broker has said yes to it."""
        if (vhost, declaration.key) in self._declarations:
            return True
        return declaration.passive and declaration.method == EXCHANGE_DECLARE and declaration.name in _EXCHANGES

    def has_queue(self, vhost: str, name: str) -> bool:
        """Whether there is such a queue, as far as is known."""
        return self.knows(vhost, exists(QUEUE_DECLARE, name))

    def has_exchange(self, vhost: str, name: str) -> bool:
        """Whether there is such an exchange, as far as is known."""
        return self.knows(vhost, exists(EXCHANGE_DECLARE, name))

    def learn(self, vhost: str, declaration: Declaration) -> None:
        """The broker has said yes to it."""
        if declaration.server_named:
            return
        declares = declaration.method in (QUEUE_DECLARE, EXCHANGE_DECLARE)
        if declares and not declaration.passive:
            if (vhost, declaration.key) not in self._declarations:
                # It was deleted and made anew, if it used to be something else.
                for key in self._about(vhost, declaration.names()[0]):
                    other = self._declarations[vhost, key]
                    if other.method == declaration.method and other.name == declaration.name:
                        self._drop(vhost, key)
            self._add(vhost, declaration.existence())
        self._add(vhost, declaration)

    def forget(self, vhost: str, declaration: Declaration) -> None:
        """It is so no more (an unbind)."""
        if (vhost, declaration.key) in self._declarations:
            self._drop(vhost, declaration.key)

    def forget_queue(self, vhost: str, name: str) -> None:
        """It was deleted, its bindings with it."""
        for key in self._about(vhost, QUEUE + name):
            self._drop(vhost, key)

    def forget_exchange(self, vhost: str, name: str) -> None:
        """It was deleted, its bindings with it."""
        for key in self._about(vhost, EXCHANGE + name):
            self._drop(vhost, key)

    def about_exchange(self, vhost: str, name: str) -> list[Declaration]:
        """What to tell a broker that does not have this exchange any more: its declaration and the bindings to it that
        are known, in an order in which they can be stated. Empty when it was never declared through here."""
        found = [self._declarations[vhost, key] for key in self._about(vhost, EXCHANGE + name)]
        declarations = [each for each in found if each.method == EXCHANGE_DECLARE and not each.passive]
        return declarations + [each for each in found if each.other == name] if declarations else []

    def _about(self, vhost: str, name: str) -> list[bytes]:
        return list(self._names.get((vhost, name), ()))

    def _add(self, vhost: str, declaration: Declaration) -> None:
        place = (vhost, declaration.key)
        if place in self._declarations:
            self._declarations.move_to_end(place)
            if place in self._transient:
                self._transient.move_to_end(place)
            return
        self._declarations[place] = declaration
        if declaration.transient and not declaration.passive:
            self._transient[place] = None
        self._bytes += declaration.size
        for name in declaration.names():
            self._names.setdefault((vhost, name), set()).add(declaration.key)
        self.dirty = True
        while len(self._declarations) > MAX_DECLARATIONS or self._bytes > MAX_BYTES:
            self._drop_one()

    def _drop_one(self) -> None:
        """Forget what matters the least: a queue of somebody's own before one that everybody declares."""
        if self._transient:
            vhost, key = next(iter(self._transient))
            for about in self._about(vhost, self._declarations[vhost, key].names()[0]):
                self._drop(vhost, about)
        else:
            self._drop(*next(iter(self._declarations)))

    def _drop(self, vhost: str, key: bytes) -> None:
        declaration = self._declarations.pop((vhost, key))
        self._transient.pop((vhost, key), None)
        self._bytes -= declaration.size
        for name in declaration.names():
            keys = self._names[vhost, name]
            keys.discard(key)
            if not keys:
                del self._names[vhost, name]
        self.dirty = True

    # -- the broker itself ---------------------------------------------------------------------------------------------

    def hears(self, found: int, data: bytes, start: int, end: int) -> None:
        """A method that the broker says in a handshake. Raises :class:`AmqpError`."""
        if found == CONNECTION_START:
            said = data[start + 11 : end - 1]
            if said != self.start and len(said) <= MAX_START:
                self.start = said
                self.dirty = True
        elif found == CONNECTION_TUNE:
            arguments = Arguments(data, start, end)
            tune = (arguments.u16(), arguments.u32(), arguments.u16())
            if tune != self.tune:
                self.tune = tune
                self.dirty = True

    # -- the file ------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Take up what the file says. Blocks."""
        content = self.notebook.read() if self.notebook is not None else None
        if content is None or self.notebook is None:
            return
        try:
            self._take_up(content)
        except (AmqpError, AttributeError, KeyError, TypeError, ValueError) as error:
            self._declarations.clear()
            self._transient.clear()
            self._names.clear()
            self._bytes = 0
            self.start = b""
            self.tune = None
            self.notebook.set_aside(f"{type(error).__name__}: {error}")
        self.dirty = False

    def _take_up(self, content: dict[str, object]) -> None:
        listed = content["facts"]
        if not isinstance(listed, list):
            raise TypeError("facts are not a list")
        for vhost, found, wire in listed:
            if not isinstance(vhost, str) or not isinstance(found, int):
                raise TypeError("a fact is not one")
            self._add(vhost, from_wire(found, b64decode(wire, validate=True)))
        start, tune = content["start"], content["tune"]
        if not isinstance(start, str) or not isinstance(tune, list):
            raise TypeError("the broker's introduction is not one")
        self.start = b64decode(start, validate=True)
        if tune:
            channel_max, frame_max, heartbeat = tune
            if not 0 <= channel_max < 1 << 16 or not 0 <= frame_max < 1 << 32 or not 0 <= heartbeat < 1 << 16:
                raise ValueError("the broker's limits are none")
            self.tune = (channel_max, frame_max, heartbeat)

    def content(self) -> dict[str, object]:
        return {
            "start": b64encode(self.start).decode(),
            "tune": list(self.tune or ()),
            "facts": [
                [vhost, each.method, b64encode(each.wire()).decode()] for (vhost, _), each in self._declarations.items()
            ],
        }
