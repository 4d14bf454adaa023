"""Gives the upstream the ``Host`` that it is configured with, in place of the one that the app dialled."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sidecar.exchange.filter import Filter

if TYPE_CHECKING:
    from sidecar.http.exchange import HttpExchange


class Host(Filter):
    """Writes it in the first line behind the request's, where RFC 9110 §7.2 wants it."""

    name: ClassVar[str] = "host"

    def __init__(self, host: str) -> None:
        self._line = f"host: {host}\r\n".encode()

    def on_request(self, x: HttpExchange) -> None:
        head = x.head
        head.remove(b"host")
        start = head.raw.index(b"\r\n") + 2
        head.raw = head.raw[:start] + self._line + head.raw[start:]
