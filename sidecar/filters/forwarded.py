"""Tells the app who really asked: ``x-forwarded-for``, ``x-forwarded-proto`` and, where one came, ``forwarded``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Final

from sidecar.exchange.filter import Filter

if TYPE_CHECKING:
    from sidecar.http.exchange import HttpExchange


_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED: Final = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
_PAIR: Final = rb"(?:" + _TOKEN + rb"=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?+[ \t]*+"
#: What each of the fields may hold: the list of RFC 7239 §4; addresses; a scheme. An element of ours would be a part of
#: an open quote in front of it, or of whatever else is no list.
_GOOD: Final = {
    b"forwarded": re.compile(_PAIR + rb"(?:[;,][ \t]*+" + _PAIR + rb")*+"),
    b"x-forwarded-for": re.compile(rb"[0-9A-Za-z.:\[\]_%, \t-]*+"),
    b"x-forwarded-proto": re.compile(rb"[0-9A-Za-z+.\-, \t]++"),
}


class Forwarded(Filter):
    """Inbound only: outbound, the client is always the app beside us. Each hop appends the peer it saw, so the list is
    as trustworthy as the peers themselves (RFC 7239 §8.1); a proto that an edge proxy has set is kept. A field that is
    malformed is dropped, so that what we add means what it says."""

    name: ClassVar[str] = "forwarded"

    def on_request(self, x: HttpExchange) -> None:
        head = x.head
        fields = head.fields
        ip = x.client_ip.encode("ascii", "replace")
        if b"x-forwarded-for" not in fields and b"x-forwarded-proto" not in fields and b"forwarded" not in fields:
            head.raw = b"%bx-forwarded-for: %b\r\nx-forwarded-proto: http\r\n\r\n" % (head.raw[:-2], ip)
            return
        has_forwarded = b"forwarded" in fields
        for name, good in _GOOD.items():
            if name in fields and not good.fullmatch(fields[name].strip(b" \t")):
                head.remove(name)
        lines = [_append(x, b"x-forwarded-for", ip)]
        if b"x-forwarded-proto" not in fields:
            lines.append(b"x-forwarded-proto: http\r\n")
        if has_forwarded:
            node = b'"[%b]"' % ip if b":" in ip else ip  # RFC 7239 §6: IPv6 in brackets and quotes
            lines.append(_append(x, b"forwarded", b"for=%b;proto=http" % node))
        head.raw = head.raw[:-2] + b"".join(lines) + b"\r\n"


def _append(x: HttpExchange, name: bytes, value: bytes) -> bytes:
    """A list field's new line; the old ones are taken out."""
    old = x.head.fields.get(name, b"").strip(b" \t")
    if name in x.head.fields:
        x.head.remove(name)
    return b"%b: %b, %b\r\n" % (name, old, value) if old else b"%b: %b\r\n" % (name, value)
