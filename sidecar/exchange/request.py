"""An HTTP request on its way, as filters see it."""

from __future__ import annotations

import asyncio

from sidecar.exchange.exchange import Exchange
from sidecar.exchange.message import RequestHead


class Request(Exchange):
    """An exchange of HTTP, of whatever version. ``head`` is the request's. ``request_done``: all of its body has come.
    ``interims`` counts the 1xx answers so far."""

    __slots__ = ("head", "interims", "request_done")

    head: RequestHead
    interims: int
    request_done: bool

    @property
    def kept_size(self) -> int:
        """Bytes of the body that are at hand: all that have come, while it is :attr:`replayable`."""
        raise NotImplementedError

    def body_so_far(self) -> bytes:
        """What is at hand of the body."""
        raise NotImplementedError

    def content_so_far(self) -> bytes:
        """The same without the framing of chunks (RFC 9112 §7.1)."""
        raise NotImplementedError

    def ask_for_body(self) -> None:
        """Have the rest of the body come in, though there is nowhere to send it yet."""
        raise NotImplementedError

    def respond(self, status: int, lines: bytes, body: bytes) -> None:
        """Answer something of our own that is no error: ``lines`` are the status line and the fields, but for those
        about framing, as HTTP/1.1 writes them."""
        raise NotImplementedError

    @property
    def client_transport(self) -> asyncio.Transport:
        """Where the answer is written to."""
        raise NotImplementedError
