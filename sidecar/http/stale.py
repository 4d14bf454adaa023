"""Good answers that are kept, to be given again when their upstream cannot answer (RFC 9111 §4.2.4, RFC 5861 §4).

Kept are answers of status 200 to GET without a body, by host, target and the fields that ``Vary`` names, whose whole
body came and is not too large. Never kept is what a shared cache must not keep or give stale: an answer with
``no-store``, ``private``, ``no-cache``, ``must-revalidate`` or ``proxy-revalidate``, with ``Set-Cookie`` or
``Vary: *``; and one to a request with ``Authorization`` or ``Cookie``, unless it says ``public``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, Final

from sidecar.core.replies import ProtocolError
from sidecar.exchange.filter import Answer, Filter
from sidecar.http.exchange import HttpExchange
from sidecar.http.h1.body import Body
from sidecar.http.h1.framing import CHUNKED
from sidecar.resilience.lru import Lru

#: Answers, their bytes in all, and the bytes of one body, at most.
MOST_ENTRIES: Final = 1000
MOST_BYTES: Final = 16 * 1024 * 1024
MOST_BODY: Final = 1024 * 1024
#: What an answer costs beside its bytes.
OVERHEAD: Final = 500
#: Seconds within which an answer is not replaced by a newer one.
_NEW: Final = 1.0
#: Fields that an answer may vary by; each is looked for in each request.
_MOST_NAMES: Final = 16

_DIRECTIVE: Final = re.compile(rb'([a-z0-9-]++)(?:\s*=\s*("[^"]*+"|[^,\s"]*+))?')
_FORBIDDEN: Final = frozenset({b"no-store", b"private", b"no-cache", b"must-revalidate", b"proxy-revalidate"})
#: Fields that belong to the connection, to that one request, or are made anew.
_NOT_KEPT: Final = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
        b"content-length", b"age", b"x-request-id", b"traceparent", b"tracestate", b"endpoint-load-metrics",
    }
)  # fmt: skip


class _Kept:
    """An answer. ``age`` is what it said of that when it came, at ``at``; ``longest`` is how old it may get."""

    __slots__ = ("age", "at", "body", "fields", "longest", "public")

    def __init__(self, at: float, age: float, longest: float, public: bool, fields: list[tuple[str, str]]) -> None:
        self.at = at
        self.age = age
        self.longest = longest
        self.public = public
        self.fields = fields
        self.body = b""


class _Coming:
    """An answer that is on its way, and will be kept if it is good."""

    __slots__ = ("kept", "key", "length", "names", "pieces", "size")

    def __init__(self, key: bytes, names: tuple[bytes, ...], length: int, kept: _Kept) -> None:
        self.key = key
        self.names = names
        self.length = length
        self.kept = kept
        self.pieces: list[bytes] = []
        self.size = 0


class Keeper(Filter):
    """Stands in a chain for the sake of a fallback with a step ``stale``, which asks :meth:`find`."""

    name: ClassVar[str] = "stale"
    stateful: ClassVar[bool] = True

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        #: (host and target) → the names of the fields that its answers vary by; (those, their values) → an answer.
        self._memory = Lru(2 * MOST_ENTRIES, MOST_BYTES)

    def view(self) -> dict[str, Any]:
        memory = self._memory
        return {"entries": len(memory) // 2, "bytes": memory.size, "dropped": memory.dropped}

    # -- keeping -------------------------------------------------------------------------------------------------------

    def on_answer(self, x: HttpExchange, head: Any) -> None:
        x.state[self.place] = None
        if head.status != 200 or x.method != "GET" or x.head.length or head.length > MOST_BODY:
            return
        if head.length < 0 and (head.length != CHUNKED or x.version == 0):
            return  # where it ends is not told by what is in it
        raw = x.head.as_http1()
        key = _key(raw, x.head.target)
        names = self._memory.get(key)
        if names is not None:
            found = self._memory.get((key, _variant(raw, names)))
            if found is not None and self._clock() - found.at < _NEW:
                return
        x.state[self.place] = _coming(key, raw, head, self._clock())

    def on_answer_body(self, x: HttpExchange, data: bytes) -> None:
        coming: _Coming | None = x.state[self.place]
        if coming is not None:
            coming.size += len(data)
            if coming.size > MOST_BODY:
                x.state[self.place] = None
            else:
                coming.pieces.append(data)

    def on_end(self, x: HttpExchange) -> None:
        coming: _Coming | None = x.state[self.place]
        if coming is None or x.error or x.status != 200:
            return
        body = b"".join(coming.pieces)
        if coming.length == CHUNKED:
            framing = Body(CHUNKED, decode=True, lenient=True)
            try:
                framing.feed(body)
            except ProtocolError:
                return
            if not framing.done:
                return
            body = framing.decoded()
        elif len(body) != coming.length:
            return
        kept = coming.kept
        kept.body = body
        key = coming.key
        variant = (key, _variant(x.head.as_http1(), coming.names))
        size = len(body) + sum(len(name) + len(value) for name, value in kept.fields) + len(key) + OVERHEAD
        self._memory.put(key, coming.names, len(key) + OVERHEAD)
        self._memory.put(variant, kept, size + sum(map(len, variant[1])))

    # -- giving --------------------------------------------------------------------------------------------------------

    def has(self, x: HttpExchange, longest: float) -> bool:
        """Whether there is an answer to that request."""
        return self._find(x, longest) is not None

    def find(self, x: HttpExchange, longest: float, more: tuple[tuple[str, str], ...]) -> Answer | None:
        """The answer that is kept for that request, if it is at most ``longest`` seconds old, with its ``Age`` and
        ``more`` fields."""
        found = self._find(x, longest)
        if found is None:
            return None
        age = int(found.age + self._clock() - found.at)
        return Answer(200, (*found.fields, ("age", str(age)), *more), found.body)

    def _find(self, x: HttpExchange, longest: float) -> _Kept | None:
        if x.method not in ("GET", "HEAD") or x.head.length:  # some have a query in their body
            return None
        raw = x.head.as_http1()
        key = _key(raw, x.head.target)
        names = self._memory.get(key)
        if names is None:
            return None
        found: _Kept | None = self._memory.get((key, _variant(raw, names)))
        if found is None or (_personal(raw) and not found.public):
            return None
        asked = _directives(b",".join(_values(raw, b"cache-control")))
        if b"no-store" in asked or b"no-cache" in asked:
            return None
        return found if found.age + self._clock() - found.at <= min(longest, found.longest) else None


def _coming(key: bytes, raw: bytes, head: Any, now: float) -> _Coming | None:
    """What may be kept of an answer to the request ``raw``; ``None``: nothing."""
    if _values(raw, b"range") or b"no-store" in _directives(b",".join(_values(raw, b"cache-control"))):
        return None
    fields: list[tuple[str, str]] = []
    control, vary, age = b"", b"", 0.0
    for line in head.raw[:-4].split(b"\r\n")[1:]:
        field, _, value = line.partition(b":")
        name, value = field.lower(), value.strip(b" \t")
        if name == b"cache-control":
            control += b"," + value
        elif name == b"vary":
            vary += b"," + value
        elif name == b"age":
            age = float(value[:9]) if value[:9].isdigit() else 0.0
        elif name == b"set-cookie":
            return None
        if name not in _NOT_KEPT and not name.startswith(b"x-sidecar-"):
            fields.append((field.decode("latin-1"), value.decode("latin-1")))
    said = _directives(control)
    names = tuple(sorted({it.strip(b" \t") for it in vary.lower().split(b",")} - {b""}))
    public = b"public" in said
    if not _FORBIDDEN.isdisjoint(said) or b"*" in names or len(names) > _MOST_NAMES or (_personal(raw) and not public):
        return None
    return _Coming(key, names, head.length, _Kept(now, age, _longest(said), public, fields))


def _longest(said: dict[bytes, bytes]) -> float:
    """How old an answer may get by its own word: ``stale-if-error`` counts from when it is no longer fresh (RFC 5861
    §4), and ``s-maxage`` without it forbids to give it stale (RFC 9111 §5.2.2.10)."""
    shared, grace = _seconds(said.get(b"s-maxage")), _seconds(said.get(b"stale-if-error"))
    if grace is not None:
        fresh = shared if shared is not None else _seconds(said.get(b"max-age"))
        return (fresh or 0.0) + grace
    return shared if shared is not None else float("inf")


def _seconds(value: bytes | None) -> float | None:
    if value is None:
        return None
    value = value.strip(b'"')
    return float(value[:12]) if value.isdigit() else 0.0


def _directives(value: bytes) -> dict[bytes, bytes]:
    return dict(_DIRECTIVE.findall(value.lower()))


def _personal(raw: bytes) -> bool:
    """Whether the answer to a request may be for one user only."""
    return bool(_values(raw, b"authorization") or _values(raw, b"cookie"))


def _key(raw: bytes, target: bytes) -> bytes:
    return b" ".join((*_values(raw, b"host"), target))


def _variant(raw: bytes, names: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The values of those fields of a request."""
    return tuple([b"%b:%b" % (name, b",".join(_values(raw, name))) for name in names])


def _values(raw: bytes, name: bytes) -> list[bytes]:
    """All values of one field of a head, by its lower-case name."""
    begin = b"\r\n" + name + b":"
    lower = raw.lower()
    found = []
    at = lower.find(begin)
    while at >= 0:
        start = at + len(begin)
        at = raw.index(b"\r\n", start)
        found.append(raw[start:at].strip(b" \t"))
        at = lower.find(begin, at)
    return found
