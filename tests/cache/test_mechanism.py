"""The mechanism of the cache alone: fields, dates, canonical JSON, memory, and properties of them."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.cache import dates
from sidecar.cache.asked import Reader
from sidecar.cache.canonical_json import canonical, parse
from sidecar.cache.fields import directives, seconds, variant
from sidecar.cache.flights import Flights
from sidecar.cache.invalidation import MOST_CHANGES, Changes, resource_key
from sidecar.cache.json_key import json_key
from sidecar.cache.store import MOST_OTHERS, OVERHEAD, Store
from sidecar.cache.stored import Stored, read, renewed
from support.examples import examples


@pytest.mark.parametrize(("text", "found"), [
    (b"", {}), (b" , ,", {}), (b"No-Store", {b"no-store": b""}), (b"a=1, A=2", {b"a": b"1"}),
    (b'a="x, b=\\"y", c', {b"a": b'x, b=\\"y', b"c": b""}), (b"a =1,b= 2", {b"a": b"?", b"b": b"?"}),
    (b'a="1', {b"a": b"?"}), (b"a=", {b"a": b"?"}), (b'a="",b', {b"a": b"", b"b": b""}),
    (b'a="1,no-store', {b"a": b"?", b"no-store": b""}),
    (b'"a",no-store,"b"', {b"a": b"?", b"no-store": b"", b"b": b"?"}),
    (b'a="1", b="2, c=3', {b"a": b"1", b"b": b"?", b"c": b"3"}), (b'no-store"', {b"no-store": b"?"}),
])  # fmt: skip
def test_directives(text: bytes, found: dict[bytes, bytes]) -> None:
    assert directives(text) == found


@given(st.binary(max_size=60))
def test_directives_of_anything_are_read(text: bytes) -> None:
    directives(text.replace(b"\r", b"").replace(b"\n", b""))


@pytest.mark.parametrize(("argument", "found"), [
    (None, None), (b"", 0.0), (b"60", 60.0), (b"-1", 0.0), (b"1.5", 0.0), (b"9" * 30, 2.0**31), (b"\xb2", 0.0),
])  # fmt: skip
def test_seconds(argument: bytes | None, found: float | None) -> None:
    assert seconds(argument) == found


@pytest.mark.parametrize("text", [
    b"Sun, 06 Nov 1994 08:49:37 GMT", b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994",
])  # fmt: skip
def test_the_three_forms_of_a_date(text: bytes) -> None:
    assert dates.read(text, 1.8e9) == 784111777.0


@pytest.mark.parametrize("text", [
    b"", b"0", b"Sun, 06 Nov 1994 08:49:37", b"Sun, 06 Nov 1994 25:49:37 GMT", b"Sun, 32 Nov 1994 08:49:37 GMT",
    b"Sun, 06 Nov 0000 08:49:37 GMT", b"Sun Nov  6 08:49:37 0000",
    b"Sun, 06 Foo 1994 08:49:37 GMT", b"Sun, 6 Nov 1994 08:49:37 GMT", b"Sunday, 06-Nov-1994 08:49:37 GMT",
])  # fmt: skip
def test_what_is_no_date(text: bytes) -> None:
    assert dates.read(text) is None


_DIGITS = st.integers(0, 9999)


@settings(max_examples=examples(200), deadline=None)
@given(
    st.sampled_from([
        b"Sun, %02d Nov %04d %02d:%02d:%02d GMT", b"Sunday, %02d-feb-%02d %02d:%02d:%02d GMT",
        b"Sun dec %2d %02d:%02d:%02d %04d",
    ]),
    st.tuples(*[st.one_of(st.sampled_from([0, 1, 29, 60, 99, 9999]), _DIGITS, st.integers(0, 99))] * 5),
    st.floats(-1e12, 1e12),
)  # fmt: skip
def test_whatever_a_dates_text_is_it_is_read(form: bytes, parts: tuple[int, ...], now: float) -> None:
    dates.read(form % parts, now)


def test_a_year_of_two_digits_is_not_far_ahead() -> None:
    assert dates.read(b"Sunday, 06-Nov-94 08:49:37 GMT", 4e9) == 784111777.0 + 3155760000.0  # in 2096: 2094
    assert dates.read(b"Friday, 01-Jan-27 00:00:00 GMT", 1.8e9) == 1798761600.0


# -- canonical JSON ----------------------------------------------------------------------------------------------------

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def _shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shuffled(value[name]) for name in reversed(value)}
    return [_shuffled(it) for it in value] if isinstance(value, list) else value


@settings(max_examples=examples(60), deadline=None)
@given(_VALUES)
def test_one_value_has_one_form_that_means_the_same(value: Any) -> None:
    one = canonical(parse(json.dumps(value).encode()))
    other = canonical(
        parse(json.dumps(_shuffled(value), indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    )
    assert one == other
    assert json.loads(one) == value


@settings(max_examples=examples(60), deadline=None)
@given(_VALUES, _VALUES)
def test_what_differs_has_another_form(one: Any, other: Any) -> None:
    texts = json.dumps(one, sort_keys=True), json.dumps(other, sort_keys=True)
    forms = [canonical(parse(text.encode())) for text in texts]
    assert (forms[0] == forms[1]) is (texts[0] == texts[1])


@pytest.mark.parametrize("text", [
    b'{"a":1,"a":1}', b'{"a":{"b":1,"\\u0062":2}}', b"NaN", b"[Infinity]", b"{", b"\xff", b"\xef\xbb\xbf1",
    b"[" * 100_000, b"[" * 100 + b"]" * 100, b"01", b'"\n"',
])  # fmt: skip
def test_what_two_could_read_differently_has_no_form(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        canonical(parse(text))


def _key(body: bytes, *fields: bytes, when: Any = None) -> bytes | None:
    raw = b"\r\n".join([b"POST / HTTP/1.1", b"host: t", *fields, b"", b""])
    return json_key("POST", raw, body, when or {})


@pytest.mark.parametrize("kind", [b"application/json", b"Application/JSON; charset=utf-8", b"application/x+json"])
def test_kinds_of_json(kind: bytes) -> None:
    assert _key(b"{}", b"content-type: " + kind) is not None


@pytest.mark.parametrize("fields", [
    (), (b"content-type: text/plain",), (b"content-type: application/json", b"content-encoding: gzip"),
])  # fmt: skip
def test_what_is_not_taken_for_json(fields: tuple[bytes, ...]) -> None:
    assert _key(b"{}", *fields) is None


def test_the_form_that_is_wanted_counts() -> None:
    kind = b"content-type: application/json"
    assert _key(b"{}", kind) != _key(b"{}", kind, b"accept: text/event-stream")
    assert _key(b"{}", kind) == _key(b"{ }", kind, b"x-other: 1")


# -- memory ------------------------------------------------------------------------------------------------------------


def _head(*fields: bytes) -> bytes:
    return b"\r\n".join([b"GET / HTTP/1.1", b"host: t", *fields, b"", b""])


def test_fields_that_vary_are_normal() -> None:
    assert variant(_head(b"A: 1, 2"), (b"a",)) == variant(_head(b"a:1", b"A:2 "), (b"a",))
    assert variant(_head(b'a: "1, 2"'), (b"a",)) != variant(_head(b'a: "1,2"'), (b"a",))
    assert variant(_head(b"a:"), (b"a",)) != variant(_head(), (b"a",))


def test_variants_of_a_resource_go_with_it() -> None:
    store = Store(10, 100_000)
    one, two = _head(b"a: 1"), _head(b"a: 2")
    assert store.put(b"k", one, (b"a",), "one", 3)
    assert store.put(b"k", two, (b"a",), "two", 3)
    assert (store.find(b"k", one), store.find(b"k", two), store.find(b"k", one, b"me")) == ("one", "two", None)
    assert store.variant(b"k", one) == (b"+1",)
    assert store.remove(b"k")
    assert not store.remove(b"k")
    assert store.put(b"k", one, (b"a",), "new", 3)
    assert (store.find(b"k", one), store.find(b"k", two)) == ("new", None)
    assert store.put(b"k", one, (), "any", 3)
    assert store.find(b"k", two) == "any"


def test_answers_of_one_may_vary_by_other_fields_than_those_of_others() -> None:
    store = Store(10_000, 10_000_000)
    one, two = _head(b"a: 1"), _head(b"b: 1")
    assert store.put(b"k", one, (b"a",), "mine", 3, b"me")
    assert store.put(b"k", one, (), "yours", 3, b"you")
    assert store.put(b"k", two, (b"b",), "ours", 3, b"we")
    assert (store.find(b"k", one, b"me"), store.find(b"k", two, b"me")) == ("mine", None)
    assert (store.find(b"k", one, b"you"), store.find(b"k", two, b"you")) == ("yours", "yours")
    assert (store.find(b"k", one, b"we"), store.find(b"k", two, b"we")) == (None, "ours")
    assert store.variant(b"k", one) == (b"+1",)
    assert store.put(b"k", two, (b"b",), "mine", 3, b"me")
    assert store.find(b"k", one, b"me") is None, "what it was when it varied by another field"
    assert store.find(b"k", two, b"me") == "mine"
    assert store.put(b"k", two, (b"b",), "all", 3)
    assert (store.find(b"k", two), store.find(b"k", two, b"we")) == ("all", None)


def test_but_not_of_too_many() -> None:
    store = Store(10_000, 10_000_000)
    for number in range(MOST_OTHERS + 1):
        assert store.put(b"k", _head(), (b"a",), number, 3, b"%d" % number if number else b"")
        assert store.put(b"k", _head(), (), number, 3, b"x%d" % number)
    assert store.find(b"k", _head(), b"x0") is None
    assert store.find(b"k", _head(), b"x%d" % MOST_OTHERS) == MOST_OTHERS


def test_an_exception_that_is_known_is_renewed_however_many_there_are() -> None:
    store = Store(10_000, 10_000_000)
    assert store.put(b"k", _head(), (), "all", 3)
    for number in range(MOST_OTHERS):
        assert store.put(b"k", _head(), (b"a",), number, 3, b"%d" % number)
    assert store.put(b"k", _head(), (b"a",), "new", 3, b"5")
    assert [store.find(b"k", _head(), whose) for whose in (b"", b"5", b"6")] == ["all", "new", 6]
    assert store.put(b"k", _head(), (b"a",), "more", 3, b"more")
    assert [store.find(b"k", _head(), whose) for whose in (b"", b"5", b"more")] == [None, None, "more"]


@pytest.mark.parametrize("most_bytes", [3 * OVERHEAD, 20 * OVERHEAD, 20 * OVERHEAD + 100])
def test_what_is_said_to_be_kept_is_found(most_bytes: int) -> None:
    """Though the resource may grow, by exceptions, to more than there is room for."""
    store = Store(1000, most_bytes)
    kept = []
    for number in range(120):
        if store.put(b"k", _head(), (b"a",) if number else (), number, 3, b"%d" % number if number else b""):
            assert store.find(b"k", _head(), b"%d" % number if number else b"") == number
            kept.append(number)
        assert store.size <= most_bytes
    assert 0 < len(kept) < 120
    assert not store.put(b"k" * most_bytes, _head(), (), "x", 3)
    assert store.find(b"k" * most_bytes, _head()) is None


def test_there_are_so_many_answers_and_no_more() -> None:
    store = Store(4, 1_000_000)
    for number in range(20):
        assert store.put(b"k", _head(), (), number, 3, b"%d" % number)
    assert (len(store), store.dropped) == (4, 16)
    assert [store.find(b"k", _head(), b"%d" % number) for number in (15, 16, 19)] == [None, 16, 19]
    for number in range(20):
        assert store.put(b"%d" % number, _head(), (), number, 3)
    assert len(store) == 4
    assert store.find(b"16", _head()) == 16


def test_bounds_in_bytes_and_entries() -> None:
    store = Store(2, 10 * OVERHEAD)
    assert not store.put(b"k", _head(), (), "large", 100 * OVERHEAD)
    for name in (b"a", b"b", b"c"):
        assert store.put(name, _head(), (), name, 10)
    assert store.find(b"a", _head()) is None
    assert store.find(b"c", _head()) == b"c"
    assert store.dropped
    store.bound(OVERHEAD)
    assert store.size <= OVERHEAD
    store.clear()
    assert (len(store), store.size) == (0, 0)


def test_answers_are_counted_not_what_they_are_answers_of() -> None:
    store = Store(3, 100_000)
    for number in range(3):
        assert store.put(b"k", _head(b"a: %d" % number), (b"a",), number, 3)
    assert len(store) == 3
    assert store.put(b"k", _head(b"a: 2"), (b"a",), 7, 3)
    assert len(store) == 3
    store.discard(b"k", _head(b"a: 2"))
    store.discard(b"x", _head(b"a: 2"))
    assert (len(store), store.find(b"k", _head(b"a: 1"))) == (2, 1)
    assert store.put(b"l", _head(), (), 3, 3)
    assert not store.put(b"m", _head(), (), 3, 200_000)
    assert store.clear() == 3


@pytest.mark.parametrize("fields", [[(b"a", b"1")] * 200, [(b"x-name-%d" % n, b"v" * n) for n in range(100)], []])
def test_an_answer_is_counted_as_what_it_takes_in_memory(fields: list[tuple[bytes, bytes]]) -> None:
    found = read(b"HTTP/1.1 200 x\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % it for it in fields]), 200, 0, 0, 0, 0)
    found.body = b"body" * 10
    heads = [found.head(), found.head(304)]
    there = [found, found.fields, found.body, *found.fields, *[part for it in found.fields for part in it], *heads]
    taken = sum(map(sys.getsizeof, there))
    assert found.size <= 1.1 * taken + OVERHEAD
    assert taken <= found.size + OVERHEAD


def test_flights() -> None:
    flights = Flights()
    one, first = flights.join(("a", 1))
    assert first
    assert flights.join(("a", 1)) == (one, False)
    flights.close({"a"})
    other, first = flights.join(("a", 1))
    assert first
    assert other is not one
    one.waiting["x"] = 1
    assert flights.end(one) == {"x": 1}
    assert len(flights) == 1
    assert flights.end(other) == {}
    assert len(flights) == 0


def test_changes_are_remembered_by_little_however_long_a_target_is() -> None:
    changes = Changes()
    key = resource_key(b"t", b"/" + b"x" * 50_000)
    before = changes.number
    assert not changes.since(key, before)
    assert key in changes.note(b"T", b"/" + b"x" * 50_000, b"HTTP/1.1 204 x\r\n\r\n", bodies=False)
    assert changes.since(key, before)
    assert not changes.since(key, changes.number)
    assert max(map(len, changes._last)) == 16


def test_what_came_before_a_change_that_is_not_remembered_any_more_may_have_changed() -> None:
    changes = Changes(4)
    for number in range(3):  # each of one resource, by http and by https
        changes.note(b"t", b"/%d" % number, b"HTTP/1.1 204 x\r\n\r\n", bodies=False)
    assert len(changes._last) == 4 < MOST_CHANGES
    assert changes.since(resource_key(b"t", b"/0"), 0), "the change itself is forgotten"
    assert changes.since(resource_key(b"t", b"/else"), 0)
    assert not changes.since(resource_key(b"t", b"/else"), 1)
    assert changes.since(resource_key(b"t", b"/2"), 1)


# -- answers -----------------------------------------------------------------------------------------------------------


def _answer(*fields: bytes, status: int = 200, ttl: float = 0.0) -> Stored:
    return read(b"\r\n".join([b"HTTP/1.1 200 x", *fields, b"", b""]), status, 100.0, 1.8e9, 0.5, ttl)


def test_the_time_that_an_answer_took_is_a_part_of_its_age() -> None:
    assert _answer(b"age: 7").aged(102.0) == 9.5
    assert _answer(b"date: Fri, 15 Jan 2027 07:59:50 GMT").aged(100.0) == 10.0


@pytest.mark.parametrize("fields", [(b"vary: " + b",".join(b"n%d" % n for n in range(17)),), (b"set-cookie: a=b",)])
def test_what_is_private(fields: tuple[bytes, ...]) -> None:
    assert not _answer(b"cache-control: max-age=60", *fields).useful()


@pytest.mark.parametrize("status", [206, 304])
def test_parts_are_of_no_use(status: int) -> None:
    assert not _answer(b"cache-control: max-age=60", status=status).useful()


def test_a_head_of_a_status_that_has_no_name() -> None:
    assert _answer(b"A: 1", status=299).head() == b"HTTP/1.1 299 \r\nA: 1\r\n"


def test_what_a_304_leaves_alone() -> None:
    old = _answer(b"etag: 1", b"vary: a", b"content-encoding: gzip", b"cache-control: max-age=1")
    old.body = b"body"
    new = renewed(
        old, b"HTTP/1.1 304 x\r\ncontent-encoding: br\r\nset-cookie: a=b\r\netag: 1\r\n\r\n", 200.0, 1.8e9, 0.0, 0.0
    )
    assert (new.body, new.vary, new.private) == (b"body", (b"a",), False)
    assert (b"content-encoding", b"gzip") in new.fields


# -- who asks ----------------------------------------------------------------------------------------------------------

_NAMES = st.sampled_from([b"authorization", b"Cookie", b"X-Api-Key", b"accept", b"user-agent"])
_FIELDS = st.lists(st.tuples(_NAMES, st.sampled_from([b"1", b"2", b"1, 2"])), max_size=4)


@settings(max_examples=examples(100), deadline=None)
@given(_FIELDS, _FIELDS)
def test_those_who_are_told_apart_are_those_who_differ(one: Any, other: Any) -> None:
    reader = Reader({"authorization", "cookie", "x-api-key"}, apart=True)

    def who(fields: Any) -> list[bytes]:
        named = [it for it in fields if it[0] in (b"authorization", b"Cookie", b"X-Api-Key")]
        return sorted(b"%b:%b" % (name.lower(), value) for name, value in named)

    asked = [reader.read(_head(*[b"%b: %b" % it for it in fields])) for fields in (one, other)]
    assert (asked[0].whose == asked[1].whose) is (who(one) == who(other))
    assert not asked[0].personal


def test_without_names_nobody_says_who_asks() -> None:
    asked = Reader((), apart=False).read(_head(b"authorization: x", b"cache-control: no-cache"))
    assert (asked.personal, asked.wish.no_cache) == (False, True)
