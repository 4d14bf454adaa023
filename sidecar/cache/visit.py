"""What a cache remembers of one request that it could not answer at once, and of the answer that is on its way."""

from __future__ import annotations

from typing import Any, Final

from sidecar.cache.asked import CONDITIONS, PLAIN, Asked
from sidecar.cache.coming import Coming
from sidecar.cache.fields import values
from sidecar.cache.flights import Flight
from sidecar.cache.invalidation import SAFE
from sidecar.cache.stored import Stored

#: Why a request is sent on, in the words of RFC 9211 §2.2.
METHOD: Final = b"method"
BYPASS: Final = b"bypass"
MISS: Final = b"uri-miss"
VARY: Final = b"vary-miss"
STALE: Final = b"stale"
REQUEST: Final = b"request"

#: The status of an exchange whose client left before it had all of its answer.
CLIENT_LEFT: Final = 499
#: Statuses of an upstream that is not well (RFC 5861 §4).
ILL: Final = frozenset({500, 502, 503, 504})
#: Codes of our own that say that it could not be asked.
UNREACHED: Final = frozenset(
    {
        "no_endpoints", "circuit_open", "overloaded", "connect_failed", "connect_timeout", "timeout",
        "upstream_reset", "bad_upstream", "local_shortage",
    }
)  # fmt: skip


class Visit:
    """``key`` is its resource (empty: it is none of the cache's business), ``raw`` its head as it came, ``asked`` what
    it says there, ``at`` the number of the last change then. ``kept`` is what there is, and may not be given without
    asking."""

    __slots__ = (
        "asked", "at", "by_body", "coming", "flight", "kept", "key", "leads", "outcome", "passes", "raw", "stored",
        "until", "validates", "vary", "wait", "whose", "why",
    )  # fmt: skip

    def __init__(self, why: bytes, key: bytes = b"", raw: bytes = b"", asked: Asked = PLAIN, at: int = 0) -> None:
        self.why = why
        self.key = key
        self.raw = raw
        self.asked = asked
        self.at = at
        self.outcome = "miss" if key else "bypass"
        #: It is known by its body.
        self.by_body = False
        #: What tells it from others for the same resource whose answers it must not get.
        self.whose = asked.whose
        self.kept: Stored | None = None
        #: It was sent with the validators of what is kept.
        self.validates = False
        self.coming: Coming | None = None
        #: Its answer is kept; or was seen, and is nothing for others.
        self.stored = False
        self.passes = False
        #: Whom it waits for, or who waits for it; what it waits with, and until when, however often it begins anew; the
        #: values that its answer varies by, if known.
        self.flight: Flight | None = None
        self.leads = False
        self.wait: Any = None
        self.until = 0.0
        self.vary: tuple[Any, ...] | None = None

    def drop(self) -> None:
        """Nothing of an answer is on its way any more."""
        if self.coming is not None:
            self.coming.over()
            self.coming = None

    def ask(self, head: Any) -> None:
        """Have the request's head ask about what is kept, with the validators of that in place of its own."""
        kept = self.kept
        if kept is None or not (kept.etag or kept.modified) or head.method not in SAFE:
            return  # conditions of what is not safe are about whether it is to be done (RFC 9110 §13.1.2)
        self.validates = True
        for name in CONDITIONS:
            head.remove(name)
        if kept.etag:
            head.add(CONDITIONS[0], kept.etag)
        if kept.modified:
            head.add(CONDITIONS[1], kept.modified)

    def ask_as_it_came(self, head: Any) -> None:
        """Give it its own conditions back."""
        if self.validates:
            self.validates = False
            for name in CONDITIONS:
                head.remove(name)
                for value in values(self.raw, name):
                    head.add(name, value)
