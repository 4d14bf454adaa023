"""The response cache against the public test suite for HTTP caches: each case by its name there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from sidecar.config.cache import CacheSettings
from sidecar.filters.cache import Cache
from support.http import Client, Message, Server, Stage
from support.public_cache_cases import CASES, ON_PURPOSE, OTHERS, UPDATED, Case, names

NOW = 1_800_000_000.0
BODY = b"one"
_DATE = re.compile(r"@([-+]?\d+)")


class Suite:
    """A port with a cache, whose clock on the wall goes as the other one does. Each case is about another host."""

    def __init__(self) -> None:
        self.stage = it = Stage(cache=CacheSettings(), retry=None, circuit_breaker=None)
        begin = it.loop.now
        self.wall = it.filter(Cache).wall = lambda: NOW + it.loop.now - begin
        self.number = 0

    def dated(self, fields: tuple[str, ...]) -> list[str]:
        return [_DATE.sub(lambda found: formatdate(self.wall() + int(found[1]), usegmt=True), it) for it in fields]

    def asks(self, *fields: str, line: str = "GET /a", body: bytes = b"") -> Client:
        client = self.stage.client()
        length = [f"content-length: {len(body)}"] if body else []
        lines = [f"{line} HTTP/1.1", f"host: t{self.number}", *self.dated(fields), *length, "", ""]
        client.says("\r\n".join(lines).encode("latin-1") + body)
        return client

    def upstream(self) -> tuple[Server, Message]:
        server = self.stage.upstream()
        return server, server.hears()

    def setup(self, *given: str, ask: tuple[str, ...] = (), line: str = "GET /a", status: int = 200,
              body: bytes = BODY, sent: bytes = b"") -> Message:  # fmt: skip
        client = self.asks(*ask, line=line, body=sent)
        server, _ = self.upstream()
        server.answers(status, b"" if status == 204 else body, *self.dated(given))
        return self.gets(client)

    def gets(self, client: Client) -> Message:
        """The next answer; one without a body by its status may say nothing of its length."""
        found = client.message()
        assert found is not None
        return found

    def kept(self, *again: str, line: str = "GET /a") -> Message | None:
        """What is answered from memory to such a request, if anything."""
        client = self.asks(*again, line=line)
        return None if self.stage.asked() else self.gets(client)

    def validated(self, client: Client, *fields: str) -> tuple[Message, Message]:
        """The upstream says that it is the same; what it was asked, and what the client gets."""
        server, asked = self.upstream()
        server.says("\r\n".join(["HTTP/1.1 304 x", *self.dated(fields), "", ""]).encode("latin-1"))
        return asked, self.gets(client)


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    found = Suite()
    yield found
    found.stage.over()


@pytest.fixture
def it(suite: Suite) -> Iterator[Suite]:
    """The suite, at the beginning of a case; nothing is under way when it is over."""
    suite.number += 1
    yield suite
    for client in suite.stage.clients:
        if client.connected:
            client.breaks()
    suite.stage.loop.settle()
    suite.stage.clients.clear()
    assert suite.stage.stats.active == 0


@pytest.mark.parametrize("name", CASES)
def test_case(it: Suite, name: str) -> None:
    case: Case = CASES[name]
    it.setup(*case.given, ask=case.ask, status=case.status)
    it.stage.advance(case.pause)
    client = it.asks(*case.again)
    if case.then == "kept":
        assert it.stage.asked() == []
        answer = it.gets(client)
        assert answer.status == (case.code or case.status)
        for line in it.dated(case.shown):
            field, _, value = line.partition(": ")
            assert answer.fields[field] == value
    elif case.then == "new":
        server, asked = it.upstream()
        assert name != "conditional-etag-vary-headers-mismatch" or "if-none-match" not in asked.fields
        server.answers(200, b"two")
        assert it.gets(client).body == b"two"
    else:
        field = "if-none-match" if case.then == "etag" else "if-modified-since"
        asked, answer = it.validated(client, *[line for line in case.given if "etag" in line])
        assert field in asked.fields
        assert all(asked.fields[line.partition(":")[0]] == line.partition(": ")[2] for line in case.ask)
        assert (answer.status, answer.body) == ((304, b"") if case.code else (200, BODY))


@pytest.mark.parametrize("field", UPDATED)
@pytest.mark.parametrize("validator", ["last-modified: @-86400", 'etag: "e"'])
def test_304_updates(it: Suite, field: str, validator: str) -> None:
    before, after = UPDATED[field]
    validator = it.dated((validator,))[0]
    old = it.dated((f"{field}: {before}",))[0]
    it.setup("cache-control: max-age=1", "date: @0", validator, old)
    it.stage.advance(3.0)
    new = it.dated((f"{field}: {after}",))[0]
    _, answer = it.validated(it.asks(), "cache-control: max-age=3600", "date: @0", validator, new)
    stored = it.kept()
    assert stored is not None
    for found in (answer, stored):
        assert found.fields[field.lower()] == new.partition(": ")[2]


def test_304_uses_what_is_stored(it: Suite) -> None:
    modified = it.dated(("last-modified: @-86400",))[0]
    it.setup("cache-control: max-age=1", modified, "test-header: A")
    it.stage.advance(3.0)
    _, answer = it.validated(it.asks(), "cache-control: max-age=3600", modified)
    assert answer.fields["test-header"] == "A"


def test_vary_invalidate(it: Suite) -> None:
    given = ("expires: @+5000", "date: @0", "vary: Foo")
    it.setup(*given, ask=("foo: 1",), body=b"foo_1")
    it.setup(*given, ask=("foo: 2",), body=b"foo_2")
    found = it.kept("foo: 1")
    assert found is not None
    assert found.body == b"foo_1"


def test_only_if_cached(it: Suite) -> None:
    found = it.kept("cache-control: only-if-cached")
    assert found is not None
    assert found.status == 504


def test_query_args(it: Suite) -> None:
    it.setup("cache-control: max-age=3600", line="GET /a?test=1")
    assert it.kept(line="GET /a?test=1") is not None
    assert it.kept(line="GET /a?test=2") is None


def test_headers_listed_in_connection(it: Suite) -> None:
    it.setup("connection: a, b", "a: 1", "b: 2", "c: 3", "cache-control: max-age=3600")
    found = it.kept()
    assert found is not None
    assert found.fields["c"] == "3"
    assert not {"connection", "a", "b"} & found.fields.keys()


def test_conditions_are_forwarded(it: Suite) -> None:
    it.asks('if-none-match: "abcdef"')
    assert it.upstream()[1].fields["if-none-match"] == '"abcdef"'


def test_no_store_leaves_the_older_answer(it: Suite) -> None:
    it.setup("cache-control: max-age=10000", "a: 1")
    it.setup("cache-control: no-store", "a: 2", ask=("cache-control: no-cache",))
    found = it.kept()
    assert found is not None
    assert found.fields["a"] == "1"


def test_collapse_basic(it: Suite) -> None:
    first, second = it.asks(), it.asks()
    server, _ = it.upstream()
    server.answers(200, BODY, "cache-control: max-age=3600")
    assert (it.gets(first).body, it.gets(second).body) == (BODY, BODY)
    assert it.stage.asked() == []


@pytest.mark.parametrize(("control", "given"), [
    ("max-age=2", True), ("max-age=2, stale-if-error=60", True), ("max-age=2, must-revalidate", False),
    ("max-age=2, proxy-revalidate", False), ("max-age=2, no-cache", False), ("max-age=2, s-maxage=2", False),
])  # fmt: skip
@pytest.mark.parametrize("how", ["close", "503"])
def test_stale(it: Suite, control: str, given: bool, how: str) -> None:
    it.setup(f"cache-control: {control}")
    it.stage.advance(3.0)
    client = it.asks()
    while it.stage.asked():  # it is tried again, when the connection was an old one
        server, _ = it.upstream()
        if how == "close":
            server.leaves()
        else:
            server.answers(503, b"no")
    assert (it.gets(client).body == BODY) is given


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "M-SEARCH"])
@pytest.mark.parametrize(("line", "status", "fields", "gone"), [
    ("/a", 200, (), True), ("/a", 500, (), False), ("/b", 200, ("location: /a",), True),
    ("/b", 200, ("content-location: /a",), True),
])  # fmt: skip
def test_invalidate(it: Suite, method: str, line: str, status: int, fields: tuple[str, ...], gone: bool) -> None:
    it.setup("cache-control: max-age=3600")
    it.setup(*fields, line=f"{method} {line}", status=status, sent=b"abc")
    assert (it.kept() is None) is gone


def test_the_page_names_all_of_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cache.md").read_text("utf-8")
    section = page.partition("<!-- cases -->")[2].partition("<!-- /cases -->")[0]
    assert sorted(re.findall(r"`([^`]+)`", section)) == names()
    for name in ON_PURPOSE:
        assert f"`{name}`" in page.partition("<!-- /cases -->")[2]
    assert len(OTHERS) == len(set(OTHERS))
