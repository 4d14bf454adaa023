"""A copy of a request on its way to another upstream, whose answer nobody wants.

It is a subrequest, whose client is a :class:`CopyEnd`: that takes the answer as it comes and drops it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final

from sidecar.core.replies import ProtocolError
from sidecar.http.subrequest import SubrequestClient, begin, head_for

if TYPE_CHECKING:
    from sidecar.http.exchange import HttpExchange
    from sidecar.http.listener import HttpListener

#: The field that a copy has beside those of the original: the id of that. Its own is another one. It ends at the next
#: sidecar, as all of ours do that a client could send.
FIELD: Final = b"x-sidecar-mirrored"
#: Bytes of an answer that are taken, so that its connection can be kept; then it is cut off.
MOST_ANSWER: Final = 1024 * 1024

#: Is told once how a copy ended: its status (0: none), and our own code if the answer was ours.
Done = Callable[[int, str], None]


def copy(listener_of: Callable[[str], Any], name: str, x: HttpExchange, done: Done) -> None:
    """Send a copy of the request of ``x``, which is over and was all at hand, to the upstream of that name. ``done`` is
    told of its end, be it at once. It holds up no drain. Raises :class:`ProtocolError` with the reason when it cannot
    be sent there."""
    listener: HttpListener | None = listener_of(name)
    if listener is None or listener.draining:
        raise ProtocolError("there is no such upstream any more")
    head = head_for(listener, x)
    for field in (b"x-request-id", FIELD):
        head.remove(field)
    head.add(FIELD, x.request_id.encode("latin-1"))
    head.granted = inf
    begin(CopyEnd(listener, x.client_ip, done), x, head).run()


def is_copy(x: HttpExchange) -> bool:
    """Whether an exchange is such a copy: of those there are no others."""
    return isinstance(x.client, CopyEnd)


class CopyEnd(SubrequestClient):
    """The client of a copy."""

    __slots__ = ("_done", "_left")

    def __init__(self, listener: HttpListener, ip: str, done: Done) -> None:
        SubrequestClient.__init__(self, listener, ip)
        self._left = MOST_ANSWER
        self._done = done

    def exchange_done(self, keep: bool, unread: bool, now: float) -> None:
        self.abort()

    def abort(self) -> None:
        y = self.leave()
        if y is not None:
            self._done(y.status, y.error)

    def write(self, data: bytes) -> None:
        """A part of the answer: it is dropped, and what would be too much of it does not come."""
        before = self._left
        self._left = before - len(data)
        if self._left < 0 <= before:
            self.listener.loop.call_soon(self.cut)
