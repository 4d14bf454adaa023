"""Heads to begin with: those that the scanner has to take, those of the tests of smuggling, what the fuzzer has found.

In each, the first byte says how it is read (:func:`support.scanner.oracle.compare`)."""

from __future__ import annotations

import ast
import struct
from collections.abc import Iterable
from pathlib import Path

from bench.hotpath import ANSWER, BROWSER, REQUEST
from support.smuggling import AMBIGUOUS, FRAMING, HOSTS, LINES

REQUEST_BYTE, ANSWER_BYTE = b"\x00", b"\x01"
#: What the fuzzer has found to reach more of the code.
FOUND = Path(__file__).with_name("found.txt")

#: Ordinary heads: the scanner must not leave them to the parser.
REQUESTS = [
    REQUEST,
    BROWSER,
    b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    b"HEAD /a/b?c=d HTTP/1.1\r\nhost: [::1]:8080\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n\r\n",
    b"DELETE //x HTTP/1.1\r\nHOST:\ta.test:80 \t\r\nConnection: CLOSE\r\nCookie: a=b; c=d\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nExpect: 100-Continue\r\n\r\n",
    b"PATCH /a HTTP/1.1\r\nHost: a_b~c!$&'()*+,;=%41\r\nContent-Length:\t999999999999999999 \r\n\r\n",
    b"PUT /\xff HTTP/1.1\r\nHost: v1.A\r\nTransfer-Encoding: chunked\r\nX: \x80\t\xff\r\n\r\n",
    b"OPTIONS / HTTP/1.1\r\nHost: a:\r\nx-sidecar-deadline: 1500\r\nAccept: */*\r\nX-Sidecar-Load:1\r\n\r\n",
    b"TRACE / HTTP/1.1\r\nX-Sidecar-Deadline: soon\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX-B3-TraceId: 1\r\nX-B3-SpanId: 2\r\nX-B3-ParentSpanId: 3\r\nX-B3-Sampled: 1\r\n"
    b"X-B3-Flags: 0\r\nb3: 0\r\ntraceparent: x\r\ntracestate: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nForwarded: for=b\r\nX-Forwarded-For: b\r\nX-Forwarded-Proto: http\r\n"
    b"A: 1\r\na: 2\r\n\r\n",
]
ANSWERS = [
    ANSWER.partition(b"\r\n\r\n")[0] + b"\r\n\r\n",
    b"HTTP/1.1 200\r\n\r\n",
    b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nConnection:keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\ncontent-length: 12\r\nETag: x\r\n\r\n",
    b"HTTP/1.1 503 \xff\tx\r\nRetry-After: 5\r\nUpgrade: h2c\r\nProxy-Connection: x\r\nHost: a\r\nx-b3-a: 1\r\n\r\n",
    b"HTTP/1.1 999 X\r\nContent-Length: 0\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n",
]
#: Good heads that are for the parser, and bad ones: beginnings for the fuzzer, beside the tests' own.
ODD = [
    b"\x00GET / HTTP/1.0\r\n\r\n",
    b"\x00GET http://a:80/b?c HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x00GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"\x00GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\n\r\n",
    b"\x00PRI * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x00POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"\x00POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 010\r\nX_Sidecar_Load: 1\r\n\r\n",
    b"\x01HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5, 5\r\n\r\n",
    b"\x01HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"\x01HTTP/1.1 204 N\r\nContent-Length: 5\r\nX-Sidecar-Error: draining\r\n\r\n",
    b"\x01HTTP/1.1 304 N\r\nTransfer-Encoding:\tchunked\r\nConnection: x, close\r\nx: y\r\n\r\n",
]


def corpus() -> list[bytes]:
    """All of them."""
    return [
        *(REQUEST_BYTE + raw for raw in REQUESTS),
        *(ANSWER_BYTE + raw for raw in ANSWERS),
        *ODD,
        *smuggled(),
        *literals(FOUND),
    ]


def smuggled() -> list[bytes]:
    """The heads of the tests of smuggling."""
    requests = [*FRAMING.values(), *LINES.values(), *HOSTS.values()]
    return [
        *(REQUEST_BYTE + raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" for raw in requests),
        *(ANSWER_BYTE + raw.partition(b"\r\n\r\n")[0][:4096] + b"\r\n\r\n" for raw in AMBIGUOUS.values()),
    ]


def literals(file: Path) -> list[bytes]:
    """What the fuzzer has found: a literal in each line."""
    return [ast.literal_eval(line) for line in file.read_text("ascii").splitlines()] if file.exists() else []


def save(file: Path, found: Iterable[bytes]) -> None:
    """Write it."""
    file.write_text("".join(f"{data!r}\n" for data in found), "ascii")


def stored(inputs: Iterable[bytes], how: int = 1) -> bytes:
    """Inputs, without the first bytes that say how each is read, as the programs in C read them."""
    return b"".join(struct.pack("<I", len(data)) + data for data in (it[how:] for it in inputs))
