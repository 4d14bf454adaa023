"""What a request says that matters to a cache: what it wants, who asks, and which answer it has already."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from sidecar.cache.fields import values
from sidecar.cache.freshness import ANY, Wish, wish_of

#: Fields by which a client asks whether what it has is still right.
CONDITIONS: Final = (b"if-none-match", b"if-modified-since")
#: What asks for a part, or for something that only the upstream can tell (RFC 9111 §4.3.2).
_NOT_FOR_US: Final = re.compile(rb"\r\n(?i:range|if-range|if-match|if-unmodified-since):")
#: What the client's request was, before other proxies: its scheme, and its host.
_PROTO: Final = b"x-forwarded-proto"
_HOST: Final = b"x-forwarded-host"
_HTTP: Final[tuple[list[bytes], ...]] = ([], [b"http"])
_HTTPS: Final = [b"https"]


def before(raw: bytes) -> tuple[bool | None, list[bytes]]:
    """What the request with that head was before other proxies had it, as the app is told: whether it came by https
    (``None``: it is not known by what), and for which host, if for another one."""
    proto = [it.lower() for it in values(raw, _PROTO)]
    host = [it.lower() for it in values(raw, _HOST)]
    secure = True if proto == _HTTPS else False if proto in _HTTP else None
    return secure, [] if host == [it.lower() for it in values(raw, b"host")] else host


class Asked:
    """``bypass``: only the upstream can answer it. ``conditional``: it has conditions. ``personal``: it says who asks,
    so that its answer is for that one, unless it is public. ``whose``: the same, where answers are kept for each, and
    the host that it was sent to at first, if that is another one. ``secure``: it was sent by https at first."""

    __slots__ = ("bypass", "conditional", "personal", "secure", "whose", "wish")

    def __init__(
        self,
        wish: Wish,
        bypass: bool = False,
        conditional: bool = False,
        personal: bool = False,
        whose: bytes = b"",
        secure: bool = False,
    ) -> None:
        self.wish = wish
        self.secure = secure
        self.bypass = bypass
        self.conditional = conditional
        self.personal = personal
        self.whose = whose


#: A request that says nothing of all that.
PLAIN: Final = Asked(ANY)


class Reader:
    """Reads heads. ``identity`` are the fields that say who asks; ``apart``: answers are kept for each one who does."""

    __slots__ = ("_apart", "_identity", "_special")

    def __init__(self, identity: Iterable[str], apart: bool) -> None:
        names = b"|".join([re.escape(it.lower().encode()) for it in sorted(identity)]) or b"(?!)"
        #: Of a head in lower case: with the case ignored, every name would be tried at every line.
        self._special = re.compile(
            rb"\r\n(?:(?:cache-control|pragma|range|if-[a-z-]+|x-forwarded-host|"
            + names
            + rb"):|x-forwarded-proto:(?![ \t]*+http[ \t]*+\r))"
        )
        self._identity = re.compile(rb"\r\n(?i:(" + names + rb")):([^\r]*+)")
        self._apart = apart

    def read(self, raw: bytes) -> Asked:
        """What the request with that head says."""
        if self._special.search(raw.lower()) is None:
            return PLAIN
        wish = wish_of(raw)
        secure, host = before(raw)
        if wish.no_store or _NOT_FOR_US.search(raw) is not None or secure is None:
            return Asked(wish, bypass=True)
        conditional = any(values(raw, name) for name in CONDITIONS)
        who = [b"%b:%b" % (name.lower(), value.strip(b" \t")) for name, value in self._identity.findall(raw)]
        apart = [*(sorted(who) if self._apart else ()), *[b"%b:%b" % (_HOST, it) for it in host]]
        whose = sha256(b"\n".join(apart)).digest() if apart else b""
        return Asked(wish, conditional=conditional, personal=bool(who) and not self._apart, whose=whose, secure=secure)

    def personal(self, raw: bytes) -> bool:
        """Whether that head says who asks, whatever else it wants."""
        return self._identity.search(raw) is not None
