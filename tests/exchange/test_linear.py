"""Whatever a peer sends, reading it takes time in proportion to its size: nobody can make the sidecar think for long.

Each reader gets each of the shapes that expressions stumble over, once at its limit and once at an eighth of it. What
grows with the square takes 64 times as long then, what is linear 8 times.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from math import inf

import pytest

from sidecar.amqp.topology.topic_match import PatternSet, compile_pattern
from sidecar.cache import canonical_json, dates
from sidecar.cache.asked import Reader
from sidecar.cache.fields import directives, variant
from sidecar.cache.invalidation import touched
from sidecar.cache.json_key import json_key
from sidecar.cache.stored import read as stored
from sidecar.cache.validators import tags, unmodified
from sidecar.config import document
from sidecar.config.environment import BadVariable, substitute
from sidecar.config.errors import TooManyProblems
from sidecar.config.kinds import _USER_INFO
from sidecar.core.limits import Limits
from sidecar.core.replies import ProtocolError
from sidecar.core.trace import parse_b3, parse_traceparent
from sidecar.endpoints.http_check import _STATUS_LINE
from sidecar.exchange.routes import glob, normal
from sidecar.filters.forwarded import _GOOD
from sidecar.http.answer_body import whole
from sidecar.http.h1.body import Chunked
from sidecar.http.h1.diagnose import hopeless
from sidecar.http.h1.framing import CHUNKED
from sidecar.http.h1.head import parse_request, parse_response
from sidecar.http.h1.lines import without
from sidecar.http.pool import _TIMEOUT
from sidecar.llm.asked_model import field_of
from sidecar.llm.usage import Pieces, usage_of
from sidecar.registry import consul_health, directory_record
from sidecar.resilience.backoff import parse_retry_after

Read = Callable[[bytes], object]

LIMITS = Limits()
STEP = 8
#: Between 8 and 64, with room on both sides for what caches, allocators and a busy machine do.
MOST = 26
#: Seconds below which a measure says nothing.
LEAST = 20e-6

SHAPES = [
    b" ", b"\t", b",", b"a", b"a ", b" ,", b"a,", b" a,", b";", b";a", b'"', b"\\", b"-", b"=", b"%", b"%2e", b"/",
    b"/.", b"/..", b"/../a", b":", b"0", b"\x80", b"\r", b"\n", b"\r\n", b"\x00", b"a: b\r\n", b"x-b3-", b"a.", b".",
    b"#.", b"*.", b"${", b"${a", b"${a:-", b"}", b"://", b"@", b"timeout=", b'\\"', b'a="', b'{"a":',
]  # fmt: skip


def _field(parse: Read, name: bytes, value: bytes) -> object:
    return parse(b"%b: a%bb\r\n\r\n" % (name, value))


def _parse_request(lines: bytes) -> object:
    return parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines, LIMITS)


def _target(start: bytes, data: bytes) -> object:
    return parse_request(b"GET %b%b HTTP/1.1\r\nHost: a\r\n\r\n" % (start, data), LIMITS)


def _parse_answer(lines: bytes) -> object:
    return parse_response(b"HTTP/1.1 200 OK\r\n" + lines, LIMITS, "GET")


def _chunks(start: bytes, data: bytes, lenient: bool = False) -> None:
    Chunked(lenient=lenient).feed(start + data)


def _chunks_in_pieces(start: bytes, data: bytes, lenient: bool = False) -> None:
    body = Chunked(lenient=lenient)
    body.feed(start)
    for n in range(0, len(data), 8):
        body.feed(data[n : n + 8])


def _hopeless_in_pieces(data: bytes) -> None:
    for n in range(0, len(data), 64):
        if hopeless(data[: n + 64], n):
            return


def _text(read: Callable[[str], object], data: bytes) -> object:
    return read(data.decode("latin-1"))


def _compose(text: str) -> object:
    return document.parse(f"a: |\n  {text}\nb: {text}\n", [])


def _consul(text: str) -> object:
    entry = {"Node": {"Address": text}, "Service": {"ID": text, "Port": 1, "Tags": [text], "Meta": {"a": text}}}
    return consul_health.instances([entry])


def _many_bindings() -> PatternSet:
    bindings = PatternSet()
    for n in range(40):
        bindings.add(f"#.{n}.*.a.#.b")
    return bindings


def _asked(value: bytes) -> object:
    return READER.read(b"GET / HTTP/1.1\r\nhost: a\r\ncache-control: %b\r\n\r\n" % value)


def _answered(lines: bytes) -> object:
    return stored(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\n", 200, 0.0, 0.0, 0.0, 0.0)


def _renamed(name: bytes, value: bytes) -> object:
    return list(touched(b"a", b"/b", b"HTTP/1.1 200 OK\r\n%b: %b\r\n\r\n" % (name, value)))


def _keyed(body: bytes) -> object:
    return json_key("POST", JSON, body, {"a.b": 1, "c": 0})


def _canonical(start: bytes, end: bytes, body: bytes) -> object:
    return canonical_json.canonical(canonical_json.parse(start + body + end))


def _counted(start: bytes, data: bytes) -> object:
    pieces = Pieces(b"text/event-stream")
    return [pieces.take(data[n : n + 64]) for n in range(0, len(data), 64)], usage_of(data[-2048:])


READER = Reader({"authorization", "cookie"}, apart=True)
JSON = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\r\n"
GLOB = glob("/*a*/?b*.*c?d*,*e")
PATTERN = compile_pattern("#.a.*.#.b.*.#.c")

READERS: dict[str, tuple[int, Read]] = {
    "a request's head": (65_000, _parse_request),
    "an answer's head": (65_000, _parse_answer),
    "a request's first line": (8_000, partial(_target, b"/")),
    "a URL as target": (8_000, partial(_target, b"http://a")),
    "an answer's first line": (65_000, lambda data: parse_response(b"HTTP/1.1 200 %b\r\n\r\n" % data, LIMITS, "GET")),
    **{
        f"{name.decode()} of {whose}": (65_000, partial(_field, parse, name))
        for whose, parse, names in (
            (
                "a request", _parse_request,
                (b"Connection", b"Content-Length", b"Transfer-Encoding", b"Expect", b"TE", b"Host", b"Keep-Alive",
                 b"Connection: upgrade\r\nUpgrade", b"X-Sidecar-Error"),
            ),
            ("an answer", _parse_answer, (b"Connection", b"Content-Length", b"Transfer-Encoding", b"Upgrade")),
        )
        for name in names
    },
    "the beginning of a head": (65_000, hopeless),
    "a head that comes in small pieces": (65_000, _hopeless_in_pieces),
    "the removal of a field": (65_000, lambda data: without(b"GET / HTTP/1.1\r\n%b\r\n\r\n" % data, b"a")),
    "chunks": (65_000, partial(_chunks, b"")),
    "the extension of a chunk": (256, partial(_chunks, b"5;a=")),
    "the size of an answer's chunk": (16_000, partial(_chunks, b"5", lenient=True)),
    "the size of an answer's chunk in small pieces": (16_000, partial(_chunks_in_pieces, b"5", lenient=True)),
    "trailers": (16_000, partial(_chunks, b"0\r\nX: ")),
    "chunks in small pieces": (16_000, partial(_chunks_in_pieces, b"")),
    "trailers in small pieces": (16_000, partial(_chunks_in_pieces, b"0\r\nX: ")),
    "a trailer's name in small pieces": (16_000, partial(_chunks_in_pieces, b"0\r\n")),
    "a route's glob": (8_000, GLOB),
    "a path in its normal form": (8_000, lambda data: normal(b"/" + data)),
    "Forwarded": (65_000, _GOOD[b"forwarded"].fullmatch),
    "Forwarded, a quote": (65_000, lambda data: _GOOD[b"forwarded"].fullmatch(b'for="' + data)),
    "X-Forwarded-For": (65_000, _GOOD[b"x-forwarded-for"].fullmatch),
    "traceparent": (65_000, lambda data: parse_traceparent(b"cc-" + b"a" * 32 + b"-" + b"b" * 16 + b"-00" + data)),
    "b3": (65_000, lambda data: parse_b3({b"b3": data})),
    "b3 in fields": (65_000, lambda data: parse_b3({b"x-b3-traceid": data, b"x-b3-spanid": data})),
    "Retry-After": (65_000, lambda data: parse_retry_after(data, 0.0)),
    "Keep-Alive": (65_000, _TIMEOUT.search),
    "the health check's answer": (8_192, lambda data: _STATUS_LINE.fullmatch(b"HTTP/1.1 200 %b\n" % data)),
    "Cache-Control": (16_000, directives),
    "Cache-Control, a quote": (16_000, lambda data: directives(b'a="' + data)),
    "Cache-Control, quotes": (16_000, lambda data: directives(b'a="' + data + b'"')),
    "Cache-Control, a quote that is closed": (16_000, lambda data: directives(data + b'a=""')),
    "Cache-Control of a request": (16_000, _asked),
    "a request's head, for the cache": (16_000, READER.read),
    "an answer's head, for the cache": (16_000, _answered),
    "what a request varies by": (16_000, lambda data: variant(b"GET / HTTP/1.1\r\na: %b\r\n\r\n" % data, (b"a", b"b"))),
    "a date": (16_000, dates.read),
    "a date's beginning": (16_000, lambda data: dates.read(b"Sun, 06 Nov 1994 08:49:37 " + data)),
    "entity tags": (16_000, tags),
    "conditions": (16_000, lambda data: unmodified(b"GET / HTTP/1.1\r\n" + data + b"\r\n\r\n", b'"a"', b"")),
    "Location": (16_000, partial(_renamed, b"Location")),
    "many Locations": (16_000, lambda data: _renamed(b"Location", data.replace(b"a", b"a\r\nLocation: "))),
    "the JSON of a request": (16_000, _keyed),
    "a list of JSON": (16_000, partial(_canonical, b"[", b"0]")),
    "a text of JSON": (16_000, partial(_canonical, b'"', b'"')),
    "a number of JSON": (16_000, lambda data: _keyed(b'{"c": 1.%b}' % data)),
    "a body in chunks": (16_000, partial(whole, CHUNKED)),
    "the model that is asked for": (16_000, lambda data: field_of(b'{"a": ' + data, "model")),
    "pieces of an answer": (16_000, partial(_counted, b"")),
    "a topic pattern": (255, partial(_text, PATTERN)),
    "many topic patterns": (255, partial(_text, _many_bindings().matching)),
    "an instance's record": (65_000, directory_record.decode),
    "Consul's answer": (65_000, partial(_text, _consul)),
    "a variable in the configuration": (65_000, partial(_text, lambda text: substitute(text, {"a": "b"}))),
    "a URL with a secret": (65_000, partial(_text, _USER_INFO.search)),
    "the configuration": (32_000, partial(_text, _compose)),
}  # fmt: skip


def _cost(read: Read, data: bytes, enough: float = 0.0) -> float:
    """Seconds of this process, the least of three: what others do on the machine is not in it. Once it is no more than
    ``enough``, it is not looked whether it can be less."""
    best = inf
    for _ in range(3):
        if best <= enough:
            break
        started = time.process_time()
        try:
            read(data)
        except (ProtocolError, ValueError, BadVariable, TooManyProblems, document.BadDocument):
            pass
        best = min(best, time.process_time() - started)
    return best


@pytest.fixture
def _no_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collection")
@pytest.mark.parametrize("what", READERS)
def test_time_is_in_proportion_to_size(what: str) -> None:
    limit, read = READERS[what]
    for shape in SHAPES:
        small, large = (shape * (size // len(shape)) for size in (limit // STEP, limit))
        for _ in range(5):  # the largest disturbances do not come five times in a row
            few = _cost(read, small)
            most = MOST * max(few, LEAST)
            many = _cost(read, large, most)
            if many <= most:
                break
        else:
            pytest.fail(f"{what}, {shape!r}: {many * 1e3:.2f} ms for {limit} bytes, {few * 1e3:.2f} ms for an eighth")
