"""Tells the app who really asked: ``x-forwarded-for``, ``x-forwarded-proto`` and, where one came, ``forwarded``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Final

from sidecar.exchange.filter import Filter

if TYPE_CHECKING:
    from sidecar.exchange.message import RequestHead
    from sidecar.exchange.request import Request


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
    sides: ClassVar[tuple[str, ...]] = ("inbound",)

    def on_request(self, x: Request) -> None:
        head = x.head
        fields = head.fields
        ip = x.client_ip.encode("ascii", "replace")
        if b"x-forwarded-for" not in fields and b"x-forwarded-proto" not in fields and b"forwarded" not in fields:
            head.add(b"x-forwarded-for", ip)
            head.add(b"x-forwarded-proto", b"http")
            return
        has_forwarded = b"forwarded" in fields
        for name, good in _GOOD.items():
            if name in fields and not good.fullmatch(fields[name].strip(b" \t")):
                head.remove(name)
        _append(head, b"x-forwarded-for", ip)
        if b"x-forwarded-proto" not in fields:
            head.add(b"x-forwarded-proto", b"http")
        if has_forwarded:
            node = b'"[%b]"' % ip if b":" in ip else ip  # RFC 7239 §6: IPv6 in brackets and quotes
            _append(head, b"forwarded", b"for=%b;proto=http" % node)


def _append(head: RequestHead, name: bytes, value: bytes) -> None:
    """Write a list field with one element more; its old lines are taken out."""
    old = head.fields.get(name, b"").strip(b" \t")
    if name in head.fields:
        head.remove(name)
    head.add(name, b"%b, %b" % (old, value) if old else value)
