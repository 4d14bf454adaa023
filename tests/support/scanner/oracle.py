"""Holds the scanner against the parser: what the scanner takes, the parser takes too, and says the same of it."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from types import ModuleType
from typing import Any

from sidecar.core.limits import Limits
from sidecar.core.replies import ProtocolError
from sidecar.core.trace import parse_traceparent
from sidecar.filters.request_id import GOOD_ID
from sidecar.http.h1 import head as heads
from sidecar.http.h1.scanner import TRACE_SHIFT, TRACED, find_end

_OF_REQUEST = attrgetter(
    "raw", "method", "target", "version", "keep_alive", "length", "upgrade", "expects_continue", "asks_load", "granted"
)
_OF_ANSWER = attrgetter("raw", "status", "length", "keep_alive")
#: What may be asked for an answer's head: the method, and whether a sidecar sent it.
_ASKED = (("GET", False), ("HEAD", False), ("GET", True))


def use(scanner: ModuleType | None) -> tuple[Any, Any]:
    """Have the parsers of this process use that scanner, or none; return the functions that they had."""
    before = vars(heads)["scan_request"], vars(heads)["scan_response"]
    put(*((None, None) if scanner is None else (scanner.request_head, scanner.answer_head)))
    return before


def put(request: Any, response: Any) -> None:
    """Have them use these functions."""
    vars(heads)["scan_request"] = request
    vars(heads)["scan_response"] = response


def outcome(parse: Callable[[], Any], attributes: attrgetter[tuple[Any, ...]]) -> tuple[Any, ...]:
    """All that a parser says of a head: its attributes, fields in their order; or the refusal."""
    try:
        head = parse()
    except ProtocolError as error:
        return str(error), error.code
    return attributes(head), list(head.fields.items())


def compare_request(raw: bytes, limits: Limits) -> bool:
    """Fail if the two differ; whether the scanner has taken this one."""
    scanned = vars(heads)["scan_request"](raw, limits.bounds)
    if scanned is not None:  # it has not looked at what comes behind it
        raw = begin_of(raw, scanned)
        compare_ids(scanned)
    with_scanner = outcome(lambda: heads.parse_request(raw, limits, b"up"), _OF_REQUEST)
    without = outcome(lambda: heads.read_request(raw, limits, b"up"), _OF_REQUEST)
    assert with_scanner == without, (raw, limits)
    return scanned is not None


def begin_of(raw: bytes, scanned: Any) -> bytes:
    """The head that was taken. Fail if it is not the one that there is."""
    assert scanned[-1] == find_end(raw, 0)
    return raw[: scanned[-1]]


def compare_ids(scanned: Any) -> None:
    """Fail if what was seen in passing is not what those see who look."""
    fields, flags, request_id = scanned[3], scanned[5], scanned[6]
    given = fields.get(b"x-request-id", b"").strip(b" \t")
    assert request_id == (given.decode() if GOOD_ID.fullmatch(given) else None)
    context = parse_traceparent(fields.get(b"traceparent", b"").strip(b" \t"))
    assert flags & TRACED == 0 or (context is not None and context[2] == flags >> TRACE_SHIFT)


def compare_answer(raw: bytes, limits: Limits) -> bool:
    """The same of an answer's head."""
    scanned = vars(heads)["scan_response"](raw, limits.bounds)
    if scanned is not None:
        raw = begin_of(raw, scanned)
    for method, peer in _ASKED:
        with_scanner = outcome(lambda: heads.parse_response(raw, limits, method, peer), _OF_ANSWER)  # noqa: B023
        without = outcome(lambda: heads.read_response(raw, limits, method, peer), _OF_ANSWER)  # noqa: B023
        assert with_scanner == without, (raw, limits, method, peer)
    return scanned is not None


def compare(data: bytes) -> bool:
    """The same of what the fuzzer makes: a byte that says what it is and how much is allowed, then the head."""
    if not data:
        return False
    bits, raw = data[0], data[1:]
    limits = Limits(
        head=(65536, len(raw) - 1, len(raw), len(raw) + 1)[bits >> 1 & 3] if raw else 65536,
        headers=(100, 0, 1, 2, 3, 5, 8, 13)[bits >> 3 & 7],
        target=(8192, 1, 4, 16)[bits >> 6],
    )
    return compare_answer(raw, limits) if bits & 1 else compare_request(raw, limits)
