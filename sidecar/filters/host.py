"""Gives the upstream the ``Host`` that it is configured with, in place of the one that the app dialled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sidecar.config.keys import Key
from sidecar.config.values import HOST_FIELD
from sidecar.exchange.filter import Filter, Site

if TYPE_CHECKING:
    from sidecar.exchange.request import Request


class Host(Filter):
    """Writes it in the first line behind the request's, where RFC 9110 §7.2 wants it."""

    name: ClassVar[str] = "host"
    setting: ClassVar[Any] = Key(
        HOST_FIELD, "Host that endpoints are asked for.", "api.example", default="the one that the app asked for"
    )
    sides: ClassVar[tuple[str, ...]] = ("outbound",)

    def __init__(self, config: str, site: Site) -> None:
        super().__init__(config, site)
        self._host = config.encode()

    def on_request(self, x: Request) -> None:
        head = x.head
        head.remove(b"host")
        head.put_first(b"host", self._host)
