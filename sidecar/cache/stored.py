"""One kept answer: what it says of itself, for whom it may be kept, and when it may be given (RFC 9111 §3, §4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Final

from sidecar.cache import dates
from sidecar.cache.fields import directives, lines, names, seconds
from sidecar.cache.freshness import BY_DEFAULT, Wish, initial_age, lifetime

#: Fields that belong to the connection, to that one request, or are made anew.
NOT_KEPT: Final = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
        b"content-length", b"age", b"x-request-id", b"traceparent", b"tracestate", b"endpoint-load-metrics",
        b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization", b"set-cookie", b"set-cookie2",
    }
)  # fmt: skip
#: What a 304 does not change: what is about the bytes of the body (RFC 9111 §3.2), and cookies.
_NOT_RENEWED: Final = frozenset({b"content-encoding", b"content-range", b"set-cookie"})
#: What is left out of a 304, as it is about a body.
_NOT_IN_304: Final = frozenset({b"content-type", b"content-encoding", b"content-language", b"content-range"})
#: What a field costs beside its bytes.
PER_FIELD: Final = 150
#: Fields that an answer may vary by; each is looked for in each request.
MOST_NAMES: Final = 16
#: Answers that are no answers by themselves, or are parts.
_PARTS: Final = frozenset({206, 304})


class Stored:
    """An answer. ``fields`` are those that are kept, as they were written; ``vary`` the names that it varies by.
    ``age`` is how old it was when it came, ``at`` (the clock's time) when that was; ``fresh`` for how many seconds.

    ``private``: it must not be kept for others; ``public``: it may be, though its request said who asked (§3.5, but for
    ``must-revalidate``, which many say without meaning that).
    ``no_cache``: it is not given without asking; ``bound``: nor when it is not fresh any more, whatever happens
    (§5.2.2.2, §5.2.2.8, §5.2.2.10). ``grace``: seconds for which it may be then, in an error; ``None``: it does not
    say (RFC 5861 §4)."""

    __slots__ = (
        "_heads", "age", "at", "body", "bound", "etag", "fields", "fresh", "grace", "modified", "no_cache", "private",
        "public", "status", "vary",
    )  # fmt: skip

    def __init__(
        self, status: int, given: Iterable[tuple[bytes, bytes]], now: float, wall: float, delay: float, ttl: float
    ) -> None:
        """``given``: its fields; ``now`` by the clock, ``wall`` by the one on the wall; ``delay``: how long it took;
        ``ttl``: for how long it is fresh if it does not say."""
        fields: list[tuple[bytes, bytes]] = []
        control: list[bytes] = []
        vary: list[bytes] = []
        ages: list[bytes] = []
        expires = date = None
        cookie = False
        self.etag = self.modified = b""
        for field, value in given:
            name = field.lower()
            if name == b"cache-control":
                control.append(value)
            elif name == b"vary":
                vary.append(value)
            elif name == b"age":
                ages.append(value)
            elif name == b"expires":
                expires = value if expires is None else b""  # two are none (§5.3)
            elif name == b"date":
                date = dates.read(value, wall)
            elif name == b"etag":
                self.etag = value
            elif name == b"last-modified":
                self.modified = value
            elif name == b"set-cookie":
                cookie = True
            if name not in NOT_KEPT and not name.startswith(b"x-sidecar-"):
                fields.append((field, value))
        said = directives(b",".join(control))
        self.status = status
        self.fields = fields
        self.vary = names(b",".join(vary))
        self.body = b""
        self.at = now
        self.age = initial_age(ages, date, wall, delay)
        self.fresh = lifetime(status, said, expires, wall if date is None else date, ttl)
        self.no_cache = b"no-cache" in said
        self.grace = seconds(said.get(b"stale-if-error"))
        self.bound = (
            self.no_cache
            or not said.keys().isdisjoint((b"must-revalidate", b"proxy-revalidate"))
            or (b"s-maxage" in said and self.grace is None)
        )
        self.private = (
            cookie or b"*" in self.vary or len(self.vary) > MOST_NAMES or b"no-store" in said or b"private" in said
        )
        self.public = b"public" in said or b"s-maxage" in said
        self._heads: dict[int, bytes] = {}

    # -- whether it is kept --------------------------------------------------------------------------------------------

    def useful(self) -> bool:
        """Whether it can be of use: it is fresh for a time, or can be asked about."""
        if self.status < 200 or self.status in _PARTS or self.private:
            return False
        return self.fresh > self.age or (self.status in BY_DEFAULT and bool(self.etag or self.modified))

    # -- whether it is given -------------------------------------------------------------------------------------------

    def aged(self, now: float) -> float:
        """How old it is, seconds."""
        return self.age + now - self.at

    def serves(self, wish: Wish, now: float) -> bool:
        """Whether it may be given without asking anybody (§4.2, §5.2.1)."""
        if self.no_cache or wish.no_cache:
            return False
        age = self.aged(now)
        left = self.fresh - age
        if age > wish.max_age or (wish.min_fresh and left < wish.min_fresh):
            return False
        return left > 0 or (not self.bound and wish.max_stale > 0 and -left <= wish.max_stale)

    def consoles(self, wish: Wish, now: float, longest: float) -> bool:
        """Whether it may be given because nobody can be asked: when it has not been fresh for as long as it says, or
        else for ``longest`` seconds (§4.2.4)."""
        if self.bound or wish.strict:
            return False
        return self.aged(now) - self.fresh <= (longest if self.grace is None else self.grace)

    # -- how it is given -----------------------------------------------------------------------------------------------

    def head(self, status: int = 0) -> bytes:
        """The status line and the fields as HTTP/1.1 writes them, without those about framing; or that of a 304."""
        status = status or self.status
        found = self._heads.get(status)
        if found is None:
            try:
                phrase = HTTPStatus(status).phrase.encode()
            except ValueError:
                phrase = b""
            left_out: frozenset[bytes] = _NOT_IN_304 if status == 304 else frozenset()
            told = [b"%b: %b\r\n" % pair for pair in self.fields if pair[0].lower() not in left_out]
            found = self._heads[status] = b"".join((b"HTTP/1.1 %d %b\r\n" % (status, phrase), *told))
        return found

    @property
    def size(self) -> int:
        """What it takes in memory, about: its body, and its fields, by themselves and in heads as they are written."""
        return len(self.body) + sum([3 * (len(name) + len(value)) + PER_FIELD for name, value in self.fields])


def read(raw: bytes, status: int, now: float, wall: float, delay: float, ttl: float) -> Stored:
    """The answer with that head."""
    return Stored(status, lines(raw), now, wall, delay, ttl)


def renewed(old: Stored, raw: bytes, now: float, wall: float, delay: float, ttl: float) -> Stored:
    """The same answer after a 304 with that head: its fields are replaced by those of the 304 (§3.2, §4.3.4). A cookie
    that comes with that is for who has asked."""
    given = [it for it in lines(raw) if it[0].lower() not in _NOT_RENEWED]
    new = {name.lower() for name, _ in given}
    kept: Sequence[tuple[bytes, bytes]] = [it for it in old.fields if it[0].lower() not in new]
    found = Stored(old.status, [*kept, *given], now, wall, delay, ttl)
    found.body = old.body
    if b"vary" not in new:
        found.vary = old.vary
    return found
