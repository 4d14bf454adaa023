"""The cases of the public test suite for HTTP caches (https://cache-tests.fyi) that apply to the response cache, by
their names there; what each does is written down anew.

A case asks twice. ``kept``: the second answer comes from memory; ``new``: from the upstream; ``etag``, ``lm``: the
upstream is asked by that validator, and says that it is the same. ``@+10`` in a field is the date ten seconds later.
"""

from __future__ import annotations

from typing import Final, NamedTuple

FOREVER: Final = "@+2592000"
_VARIED: Final = ("expires: @+5000", "date: @0", "last-modified: @-3000")


class Case(NamedTuple):
    """``given`` are the fields of the first answer, ``ask`` and ``again`` those of the requests, ``pause`` the seconds
    between them, ``shown`` fields that the second answer has."""

    then: str
    given: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    pause: float = 3.0
    status: int = 200
    shown: tuple[str, ...] = ()
    code: int = 0


def _control(value: str, then: str) -> Case:
    return Case(then, (f"cache-control: {value}",))


_FRESHNESS: Final = {
    "freshness-none": Case("new"),
    "freshness-max-age": _control("max-age=3600", "kept"),
    "freshness-max-age-stale": _control("max-age=2", "new"),
    "freshness-max-age-0": _control("max-age=0", "new"),
    "freshness-max-age-max": _control("max-age=2147483648", "kept"),
    "freshness-max-age-max-plus": _control("max-age=99999999999", "kept"),
    "freshness-max-age-age": Case("new", ("date: @0", "cache-control: max-age=10", "age: 15")),
    "freshness-max-age-expires": Case("kept", ("cache-control: max-age=3600", "expires: @-10000", "date: @0")),
    "freshness-max-age-expires-invalid": Case("kept", ("cache-control: max-age=3600", "expires: 0", "date: @0")),
    "freshness-max-age-0-expires": Case("new", ("expires: @+10000", "cache-control: max-age=0", "date: @0")),
    "freshness-max-age-extension": _control("foobar, max-age=3600", "kept"),
    "freshness-max-age-case-insenstive": _control("MaX-aGe=3600", "kept"),
    "freshness-max-age-negative": _control("max-age=-100", "new"),
    "freshness-s-maxage-shared": _control("s-maxage=3600", "kept"),
    "freshness-max-age-s-maxage-shared-longer": _control("max-age=3600, s-maxage=1", "new"),
    "freshness-max-age-s-maxage-shared-longer-reversed": _control("s-maxage=1, max-age=3600", "new"),
    "freshness-max-age-s-maxage-shared-longer-multiple": Case(
        "new", ("cache-control: max-age=3600", "cache-control: s-maxage=1")
    ),
    "freshness-max-age-s-maxage-shared-shorter": _control("max-age=1, s-maxage=3600", "kept"),
    "freshness-max-age-ignore-quoted": _control('extension="max-age=3600", max-age=1', "new"),
    "freshness-max-age-ignore-quoted-rev": _control('max-age=1, extension="max-age=3600"', "new"),
    "freshness-max-age-quoted": _control('max-age="3600"', "kept"),
    "freshness-max-age-single-quoted": _control("max-age='3600'", "new"),
    "freshness-max-age-space-before-equals": _control("max-age =3600", "new"),
    "freshness-max-age-space-after-equals": _control("max-age= 3600", "new"),
    "freshness-max-age-leading-zero": _control("max-age=003600", "kept"),
    "freshness-max-age-a100": _control("max-age=a3600", "new"),
    "freshness-max-age-100a": _control("max-age=3600a", "new"),
    "freshness-max-age-decimal-five": _control("max-age=3600.5", "new"),
    "freshness-max-age-two-fresh-stale-sameline": _control("max-age=1800, max-age=1", "kept"),
    "freshness-max-age-two-stale-fresh-sameline": _control("max-age=1, max-age=1800", "new"),
    "freshness-max-age-two-stale-fresh-sepline": Case("new", ("cache-control: max-age=1", "cache-control: max-age=9")),
}  # fmt: skip

_EXPIRES: Final = {
    "freshness-expires-future": Case("kept", (f"expires: {FOREVER}", "date: @0")),
    "freshness-expires-past": Case("new", ("expires: @-2592000", "date: @0")),
    "freshness-expires-present": Case("new", ("expires: @0", "date: @0")),
    "freshness-expires-old-date": Case("new", ("expires: @+300", "date: @+400")),
    "freshness-expires-invalid": Case("new", ("expires: 0", "date: @0")),
    "freshness-expires-invalid-date": Case("kept", ("date: foo", "expires: @+10")),
    "freshness-expires-age-slow-date": Case("new", ("date: @-10", "expires: @+10", "age: 25")),
    "freshness-expires-age-fast-date": Case("new", ("date: @+10", "expires: @+20", "age: 15")),
    "freshness-expires-wrong-case-weekday": Case("kept", ("expires: THU, 18 Aug 2050 02:01:18 GMT", "date: @0")),
    "freshness-expires-wrong-case-month": Case("kept", ("expires: Thu, 18 AUG 2050 02:01:18 GMT", "date: @0")),
    "freshness-expires-wrong-case-tz": Case("kept", ("expires: Thu, 18 Aug 2050 02:01:18 gMT", "date: @0")),
    "freshness-expires-invalid-utc": Case("new", ("expires: Thu, 18 Aug 2050 02:01:18 UTC", "date: @0")),
    "freshness-expires-invalid-2-digit-year": Case("new", ("expires: Thu, 18 Aug 50 02:01:18 GMT", "date: @0")),
    "freshness-expires-invalid-no-comma": Case("new", ("expires: Thu 18 Aug 2050 02:01:18 GMT", "date: @0")),
    "freshness-expires-invalid-multiple-spaces": Case("new", ("expires: Thu, 18  Aug  2050 02:01:18 GMT", "date: @0")),
    "freshness-expires-invalid-date-dashes": Case("new", ("expires: Thu, 18-Aug-2050 02:01:18 GMT", "date: @0")),
    "freshness-expires-invalid-time-periods": Case("new", ("expires: Thu, 18 Aug 2050 02.01.18 GMT", "date: @0")),
    "freshness-expires-invalid-1-digit-hour": Case("new", ("expires: Thu, 18 Aug 2050 2:01:18 GMT", "date: @0")),
}  # fmt: skip

_HOUR: Final = ("date: @0", "cache-control: max-age=3600")
_AGE: Final = {
    "age-parse-nonnumeric": Case("kept", (*_HOUR, "age: abc")),
    "age-parse-negative": Case("kept", (*_HOUR, "age: -7200")),
    "age-parse-float": Case("kept", (*_HOUR, "age: 7200.0")),
    "age-parse-suffix": Case("new", (*_HOUR, "age: 7200,0")),
    "age-parse-suffix-twoline": Case("new", (*_HOUR, "age: 7200", "age: 0")),
    "age-parse-prefix": Case("kept", (*_HOUR, "age: 0,7200")),
    "age-parse-prefix-twoline": Case("kept", (*_HOUR, "age: 0", "age: 7200")),
    "age-parse-dup-0": Case("kept", (*_HOUR, "age: 0, 0")),
    "age-parse-dup-0-twoline": Case("kept", (*_HOUR, "age: 0", "age: 0")),
    "age-parse-dup-old": Case("new", (*_HOUR, "age: 7200, 7200")),
    "age-parse-dup-old-twoline": Case("new", (*_HOUR, "age: 7200", "age: 7200")),
    "other-age-gen": Case("kept", (f"expires: {FOREVER}", "date: @0"), shown=("age: 3",)),
    "other-age-update-expires": Case("kept", (f"expires: {FOREVER}", "date: @0", "age: 30"), shown=("age: 33",)),
    "other-age-update-max-age": Case("kept", ("cache-control: max-age=600", "date: @0", "age: 30"), shown=("age: 33",)),
    "other-date-update": Case("kept", (f"expires: {FOREVER}", "date: @0"), shown=("date: @-3",)),
}  # fmt: skip

_RESPONSE: Final = {
    "cc-resp-private-shared": _control("private, max-age=3600", "new"),
    "cc-resp-no-store": _control("no-store", "new"),
    "cc-resp-no-store-case-insensitive": _control("No-StOrE", "new"),
    "cc-resp-no-store-fresh": Case("new", ("cache-control: max-age=10000, no-store", "expires: @+10000", "date: @0")),
    "cc-resp-no-cache": Case("new", ("cache-control: max-age=10000, no-cache", "expires: @+10000", "date: @0")),
    "cc-resp-no-cache-case-insensitive": _control("max-age=10000, No-CaChE", "new"),
    "cc-resp-no-cache-revalidate": Case("etag", ("cache-control: no-cache", 'etag: "abcd"')),
    "cc-resp-no-cache-revalidate-fresh": Case("etag", ("cache-control: max-age=10000, no-cache", 'etag: "abcd"')),
    "cc-resp-must-revalidate-fresh": Case("kept", ("cache-control: max-age=10000, must-revalidate", 'etag: "abcd"')),
    "cc-resp-must-revalidate-stale": Case("etag", ("cache-control: max-age=2, must-revalidate", 'etag: "abcd"')),
    "pragma-response-no-cache": Case("kept", ("cache-control: max-age=3600", "pragma: no-cache")),
    "pragma-response-extension": Case("kept", ("cache-control: max-age=3600", "pragma: unrecognised-extension")),
    "other-fresh-content-disposition-attachment": Case("kept", ("cache-control: max-age=3600",
                                                                "content-disposition: attachment; filename=a.txt")),
    "other-authorization": Case("new", (f"expires: {FOREVER}", "date: @0"), ("authorization: FOO",)),
    "other-authorization-public": Case("kept", ("cache-control: max-age=3600, public",), ("authorization: FOO",)),
    "other-authorization-smaxage": Case("kept", ("cache-control: s-maxage=3600",), ("authorization: FOO",)),
}  # fmt: skip


def _asked(value: str, then: str, *given: str, pause: float = 0.0) -> Case:
    return Case(then, given or ("cache-control: max-age=3600",), again=(f"cache-control: {value}",), pause=pause)


_REQUEST: Final = {
    "ccreq-ma0": _asked("max-age=0", "new", pause=3.0),
    "ccreq-ma1": _asked("max-age=1", "new", pause=3.0),
    "ccreq-magreaterage": _asked("max-age=600", "new", "cache-control: max-age=3600", "age: 1800"),
    "ccreq-max-stale": _asked("max-stale=1000", "kept", "cache-control: max-age=1", 'etag: "a"', pause=3.0),
    "ccreq-min-fresh": _asked("min-fresh=2000", "new", "cache-control: max-age=1500"),
    "ccreq-min-fresh-age": _asked("min-fresh=1000", "new", "cache-control: max-age=1500", "age: 1000"),
    "ccreq-no-cache": _asked("no-cache", "new"),
    "ccreq-no-cache-lm": _asked("no-cache", "lm", "cache-control: max-age=3600", "last-modified: @-10000", "date: @0"),
    "ccreq-no-cache-etag": _asked("no-cache", "etag", "cache-control: max-age=3600", 'etag: "abc"'),
    "ccreq-no-store": _asked("no-store", "new"),
    "pragma-request-extension": Case("kept", ("cache-control: max-age=3600",), again=("pragma: unrecognised",)),
}  # fmt: skip

_VARY: Final = {
    "vary-match": Case("kept", (*_VARIED, "vary: Foo"), ("foo: 1",), ("foo: 1",)),
    "vary-no-match": Case("new", (*_VARIED, "vary: Foo"), ("foo: 1",), ("foo: 2",)),
    "vary-omit": Case("new", (*_VARIED, "vary: Foo"), ("foo: 1",)),
    "vary-cache-key": Case("kept", (*_VARIED, "vary: Foo"), ("foo: 1", "other: 2"), ("foo: 1", "other: 3")),
    "vary-2-match": Case("kept", (*_VARIED, "vary: Foo, Bar"), ("foo: 1", "bar: abc"), ("foo: 1", "bar: abc")),
    "vary-2-no-match": Case("new", (*_VARIED, "vary: Foo, Bar"), ("foo: 1", "bar: abc"), ("foo: 2", "bar: abc")),
    "vary-2-match-omit": Case("new", (*_VARIED, "vary: Foo, Bar"), ("foo: 1",)),
    "vary-3-match": Case("kept", (*_VARIED, "vary: Foo, Bar, Baz"), ("foo: 1", "bar: a", "baz: 7"),
                         ("baz: 7", "bar: a", "foo: 1")),
    "vary-3-no-match": Case("new", (*_VARIED, "vary: Foo, Bar, Baz"), ("foo: 1", "bar: a", "baz: 7"),
                            ("foo: 2", "bar: a", "baz: 7")),
    "vary-3-order": Case("new", (*_VARIED, "vary: Foo, Bar, Baz"), ("foo: 1", "bar: abc4", "baz: 7"),
                         ("foo: 1", "bar: abc", "baz: 7")),
    "vary-3-omit": Case("kept", (*_VARIED, "vary: Foo, Bar, Baz"), ("foo: 1", "baz: 7"), ("foo: 1", "baz: 7")),
    "vary-normalise-space": Case("kept", (*_VARIED, "vary: Foo"), ("foo: 1,2",), ("foo:  1, 2 ",)),
    "vary-normalise-combine": Case("kept", (*_VARIED, "vary: Foo"), ("foo: 1, 2",), ("foo: 1", "foo: 2")),
    **{
        f"vary-{name}": Case("new", (*_VARIED, *lines), ("foo: 1", "baz: 789"), ("foo: 1", "baz: 789"))
        for name, lines in {
            "star": ("vary: *",), "syntax-star": ("vary: *",), "syntax-star-star": ("vary: *, *",),
            "syntax-star-star-lines": ("vary: *", "vary: *"), "syntax-empty-star": ("vary: , *",),
            "syntax-empty-star-lines": ("vary:", "vary: *"), "syntax-star-foo": ("vary: *, Foo",),
            "syntax-foo-star": ("vary: Foo, *",),
        }.items()
    },
}  # fmt: skip

_STATUSES: Final = (
    200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 502, 503, 504, 599,
)  # fmt: skip
_STATUS: Final = {
    **{f"status-{n}-fresh": Case("kept", ("cache-control: max-age=3600",), status=n) for n in _STATUSES},
    **{f"status-{n}-stale": Case("new", ("cache-control: max-age=2",), status=n) for n in _STATUSES},
    **{
        f"heuristic-{n}-not_cached": Case("new", ("last-modified: @-86400", "date: @0"), status=n)
        for n in (201, 202, 403, 502, 503, 504, 599)
    },
}

_FRESH: Final = ("cache-control: max-age=3600",)
_TAG: Final = (*_FRESH, 'etag: "abcdef"')


def _same(given: tuple[str, ...], again: tuple[str, ...], then: str = "kept", pause: float = 3.0) -> Case:
    return Case(then, given, again=again, pause=pause, code=304)


_CONDITIONAL: Final = {
    "conditional-etag-strong-respond": _same(_TAG, ('if-none-match: "abcdef"',)),
    "conditional-304-etag": Case("kept", _TAG, again=('if-none-match: "abcdef"',), code=304, shown=('etag: "abcdef"',)),
    "conditional-etag-precedence": _same((*_TAG, "last-modified: @-5000"),
                                         ('if-none-match: "abcdef"', "if-modified-since: @-9000")),
    "conditional-etag-weak-respond": _same((*_FRESH, 'etag: W/"abcdef"'), ('if-none-match: W/"abcdef"',)),
    "conditional-etag-strong-respond-multiple-first": _same(_TAG, ('if-none-match: "abcdef", "1234", "5678"',)),
    "conditional-etag-strong-respond-multiple-second": _same(_TAG, ('if-none-match: "1234", "abcdef", "5678"',)),
    "conditional-etag-strong-respond-multiple-last": _same(_TAG, ('if-none-match: "1234", "5678", "abcdef"',)),
    "conditional-etag-vary-headers": Case("etag", ("expires: @+1", 'etag: "abcdef"', "date: @0", "vary: Abc"),
                                          ("abc: 123",), ("abc: 123",)),
    "conditional-etag-vary-headers-mismatch": Case("new", ("expires: @+10000", 'etag: "a"', "date: @0", "vary: Abc"),
                                                   ("abc: 123",), ("abc: 456",)),
    "conditional-etag-strong-generate": Case("etag", ("cache-control: max-age=2", 'etag: "abcdef"')),
    "conditional-etag-weak-generate-weak": Case("etag", ("cache-control: max-age=2", 'etag: W/"abcdef"')),
    "conditional-lm-fresh": _same((*_FRESH, "last-modified: @-3000", "date: @0"),
                                  ("if-modified-since: @-3000",), pause=0),
    "conditional-lm-fresh-earlier": _same((*_FRESH, "last-modified: @-3000", "date: @0"),
                                          ("if-modified-since: @-2000",)),
    "conditional-lm-stale": _same(("cache-control: max-age=2", "last-modified: @-3000", "date: @0"),
                                  ("if-modified-since: @-2990",), "lm"),
}  # fmt: skip

CASES: Final = {
    **_FRESHNESS, **_EXPIRES, **_AGE, **_RESPONSE, **_REQUEST, **_VARY, **_STATUS, **_CONDITIONAL,
}  # fmt: skip

#: Of each of these fields it is tried whether a 304 changes it: ``304-etag-update-response-NAME`` and the like.
UPDATED: Final = {
    "Test-Header": ("A", "B"), "X-Test-Header": ("A", "B"), "Content-Foo": ("A", "B"), "X-Content-Foo": ("A", "B"),
    "Content-Type": ("text/plain", "text/plain;charset=utf-8"), "Content-MD5": ("rL0Y20zC+A==", "N7UdGUp1Eg=="),
    "Content-Location": ("/foo", "/bar"), "Content-Security-Policy": ("default-src a", "default-src b"),
    "X-Frame-Options": ("deny", "sameorigin"), "X-XSS-Protection": ("1", "1; mode=block"),
    "Expires": ("@+1", "@+3600"), "Clear-Site-Data": ("cache", "cookies"), "Public-Key-Pins": ("A", "B"),
}  # fmt: skip

#: Those with more to them: each has a test of its own.
OTHERS: Final = (
    "304-lm-use-stored-Test-Header", "vary-invalidate", "ccreq-oic", "query-args-different", "query-args-same",
    "headers-omit-headers-listed-in-Connection", "conditional-etag-forward", "cc-resp-no-store-old-new",
    "collapse-basic", "stale-close", "stale-503", "stale-sie-close", "stale-sie-503", "stale-close-must-revalidate",
    "stale-close-proxy-revalidate", "stale-close-no-cache", "stale-close-s-maxage=2",
    *(f"invalidate-{method}{how}" for method in ("POST", "PUT", "DELETE", "M-SEARCH")
      for how in ("", "-failed", "-location", "-cl")),
)  # fmt: skip

#: Cases in which it does otherwise, on purpose: none of them is a requirement of RFC 9111.
ON_PURPOSE: Final = {
    "other-set-cookie": "an answer with a cookie is for one client",
    "other-cookie": "what nobody in particular has asked for is not given to somebody in particular",
    "other-authorization-must-revalidate": "many say must-revalidate without meaning that",
    "heuristic-…-cached": "nothing is guessed; the key ttl says for how long",
    "pragma-request-no-cache": "it counts as Cache-Control: no-cache, where there is none",
    "headers-omit-headers-listed-in-Cache-Control-no-cache": "no-cache with names counts as without them",
    "method-POST": "an answer to a POST is not kept for a GET",
    "conditional-lm-fresh-no-lm": "without Last-Modified the whole answer is given",
    "partial-…": "parts are neither kept nor made",
}


def names() -> list[str]:
    """All cases that apply and pass, sorted."""
    updated = [
        f"304-{by}-update-{what}-{name}" for by in ("lm", "etag") for what in ("response", "stored") for name in UPDATED
    ]
    return sorted([*CASES, *updated, *OTHERS])
