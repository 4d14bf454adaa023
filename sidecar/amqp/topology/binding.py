"""A binding, told from others by all that it says."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

Identity = tuple[str, str, str, bool, bytes]


class Binding:
    """One binding: from the exchange ``source`` to a queue or, with ``to_exchange``, to an exchange. Bindings that
    differ in their arguments only are different ones (§3.1.3.3); ``arguments`` are kept as a digest."""

    __slots__ = ("digest", "learnt", "routing_key", "source", "target", "to_exchange", "words")

    def __init__(
        self,
        source: str,
        target: str,
        routing_key: str,
        arguments: Mapping[str, object] | None = None,
        to_exchange: bool = False,
    ) -> None:
        self.source = source
        self.target = target
        self.routing_key = routing_key
        self.to_exchange = to_exchange
        self.digest = digest(arguments) if arguments else b""
        self.words = routing_key.count(".") + 1
        #: When it was last heard of (:attr:`Bindings.heard`).
        self.learnt = 0

    @property
    def identity(self) -> Identity:
        return self.source, self.target, self.routing_key, self.to_exchange, self.digest


def digest(arguments: Mapping[str, object]) -> bytes:
    """Arguments in a few bytes, whatever their size; their order does not matter."""
    text = repr(sorted(arguments.items(), key=_name))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _name(item: tuple[str, object]) -> str:
    return item[0]
