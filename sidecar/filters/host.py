"""Gives the upstream the ``Host`` that it is configured with, in place of the one that the app dialled."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sidecar.exchange.filter import Filter

if TYPE_CHECKING:
    from sidecar.exchange.request import Request


class Host(Filter):
    """Writes it in the first line behind the request's, where RFC 9110 §7.2 wants it."""

    name: ClassVar[str] = "host"

    def __init__(self, host: str) -> None:
        self._host = host.encode()

    def on_request(self, x: Request) -> None:
        head = x.head
        head.remove(b"host")
        head.put_first(b"host", self._host)
