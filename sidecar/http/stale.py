"""Good answers that are kept, to be given again when their upstream cannot answer (RFC 9111 §4.2.4, RFC 5861 §4).

Kept are answers of status 200 to GET without a body, by scheme, host, target and the fields that ``Vary`` names, whose
whole body came and is not too large. Never kept is what a shared cache must not keep or give stale: an answer with
``no-store``, ``private``, ``no-cache``, ``must-revalidate`` or ``proxy-revalidate``, with ``Set-Cookie`` or
``Vary: *``; and one to a request that says who asks (:mod:`sidecar.core.identity`), unless it says ``public``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

from sidecar.cache.asked import Reader, before
from sidecar.cache.coming import Coming, Room
from sidecar.cache.fields import directives, seconds, values
from sidecar.cache.invalidation import resource_key
from sidecar.cache.store import Store
from sidecar.cache.stored import Stored, read
from sidecar.core.identity import IDENTITY
from sidecar.exchange.filter import Answer, Filter
from sidecar.http.answer_body import can_tell, whole
from sidecar.http.exchange import HttpExchange

#: Answers, their bytes in all, and the bytes of one body, at most.
MOST_ENTRIES: Final = 1000
MOST_BYTES: Final = 16 * 1024 * 1024
MOST_BODY: Final = 1024 * 1024
#: Seconds within which an answer is not replaced by a newer one.
_NEW: Final = 1.0
_FORBIDDEN: Final = frozenset({b"no-store", b"private", b"no-cache", b"must-revalidate", b"proxy-revalidate"})
#: What says whether the answer to a request may be for one user only.
_READER: Final = Reader(IDENTITY, apart=False)


class _Kept:
    """An answer; ``longest`` is how old it may get."""

    __slots__ = ("answer", "longest")

    def __init__(self, answer: Stored, longest: float) -> None:
        self.answer = answer
        self.longest = longest


class _Expected:
    """An answer that is on its way to the request with that head, and will be kept if it is good."""

    __slots__ = ("coming", "key", "longest", "raw")

    def __init__(self, key: bytes, raw: bytes, longest: float, coming: Coming) -> None:
        self.key = key
        self.raw = raw
        self.longest = longest
        self.coming = coming


class Keeper(Filter):
    """Stands in a chain for the sake of a fallback with a step ``stale``, which asks :meth:`find`."""

    name: ClassVar[str] = "stale"
    stateful: ClassVar[bool] = True

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._store = Store(MOST_ENTRIES, MOST_BYTES)
        self._room = Room(MOST_BYTES)

    def view(self) -> dict[str, Any]:
        store = self._store
        return {"entries": len(store), "bytes": store.size, "dropped": store.dropped}

    # -- keeping -------------------------------------------------------------------------------------------------------

    def on_answer(self, x: HttpExchange, head: Any) -> None:
        self._drop(x)
        if head.status != 200 or x.method != "GET" or x.head.length or head.length > MOST_BODY:
            return
        if not can_tell(x, head):
            return
        raw = x.head.as_http1()
        key = _key(raw, x.head.target)
        if key is None:
            return
        found: _Kept | None = self._store.find(key, raw)
        if found is None or self._clock() - found.answer.at >= _NEW:
            x.state[self.place] = self._expected(key, raw, head, x.attempt)

    def on_answer_body(self, x: HttpExchange, data: bytes) -> None:
        expected: _Expected | None = x.state[self.place]
        if expected is not None and not expected.coming.take(data, MOST_BODY):
            self._drop(x)

    def on_end(self, x: HttpExchange) -> None:
        expected: _Expected | None = x.state[self.place]
        if expected is None:
            return
        coming = expected.coming
        body = None if x.error or x.status != 200 else whole(coming.length, b"".join(coming.pieces))
        self._drop(x)
        if body is not None:
            answer = coming.stored
            answer.body = body
            kept = _Kept(answer, expected.longest)
            self._store.put(expected.key, expected.raw, answer.vary, kept, answer.size)

    def _expected(self, key: bytes, raw: bytes, head: Any, attempt: Any) -> _Expected | None:
        """What may be kept of an answer to the request ``raw``; ``None``: nothing."""
        if values(raw, b"range") or b"no-store" in directives(b",".join(values(raw, b"cache-control"))):
            return None
        answer = read(head.as_http1(), 200, self._clock(), 0.0, 0.0, 0.0)  # only what it says of its age counts here
        said = directives(b",".join(values(head.as_http1(), b"cache-control")))
        if answer.private or not _FORBIDDEN.isdisjoint(said) or (_READER.personal(raw) and b"public" not in said):
            return None
        return _Expected(key, raw, _longest(said), Coming(answer, head.length, attempt, self._room))

    def _drop(self, x: HttpExchange) -> None:
        """Nothing is expected any more."""
        expected: _Expected | None = x.state[self.place]
        if expected is not None:
            expected.coming.over()
            x.state[self.place] = None

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
        age = ("age", str(int(found.answer.aged(self._clock()))))
        fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in found.answer.fields]
        return Answer(200, (*fields, age, *more), found.answer.body)

    def _find(self, x: HttpExchange, longest: float) -> _Kept | None:
        if x.method not in ("GET", "HEAD") or x.head.length:  # some have a query in their body
            return None
        raw = x.head.as_http1()
        key = _key(raw, x.head.target)
        found: _Kept | None = None if key is None else self._store.find(key, raw)
        if found is None or (_READER.personal(raw) and not found.answer.public):
            return None
        asked = directives(b",".join(values(raw, b"cache-control")))
        if b"no-store" in asked or b"no-cache" in asked:
            return None
        return found if found.answer.aged(self._clock()) <= min(longest, found.longest) else None


def _longest(said: dict[bytes, bytes]) -> float:
    """How old an answer may get by its own word: ``stale-if-error`` counts from when it is no longer fresh (RFC 5861
    §4), and ``s-maxage`` without it forbids to give it stale (RFC 9111 §5.2.2.10)."""
    shared, grace = seconds(said.get(b"s-maxage")), seconds(said.get(b"stale-if-error"))
    if grace is not None:
        fresh = shared if shared is not None else seconds(said.get(b"max-age"))
        return (fresh or 0.0) + grace
    return shared if shared is not None else float("inf")


def _key(raw: bytes, target: bytes) -> bytes | None:
    """What such requests have in common; ``None``: by which scheme it came first is not known."""
    secure, host = before(raw)
    if secure is None:
        return None
    return resource_key(b" ".join((*values(raw, b"host"), *host)), target, secure)
