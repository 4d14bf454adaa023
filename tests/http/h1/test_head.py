"""Heads, without any socket: what is refused and how it is put, what is taken out, and that nothing else changes."""

from __future__ import annotations

import gc
import re
import tracemalloc
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.limits import Limits
from sidecar.core.replies import ProtocolError
from sidecar.exchange.load_report import ASK
from sidecar.http.h1.blocks import RequestBlock, ResponseBlock
from sidecar.http.h1.diagnose import hopeless, hopeless_answer
from sidecar.http.h1.framing import CHUNKED, UNTIL_CLOSE
from sidecar.http.h1.head import is_switch, parse_request, parse_response

LIMITS = Limits()


def request(*lines: bytes, first: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a\r\n") -> RequestBlock:
    return parse_request(first + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n", LIMITS)


@pytest.mark.parametrize(
    ("raw", "diagnosis"),
    [
        (b"GET / HTTP/1.1\r\nX: \x00\r\n\r\n", "a NUL byte"),
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", "a bare CR or LF"),
        (b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", "a bare CR or LF"),
        (b"GET /\r\n\r\n", "the first line is not"),
        (b"GET /a b HTTP/1.1\r\n\r\n", "the first line is not"),
        (b"G(T / HTTP/1.1\r\n\r\n", "the method is not a token"),
        (b"GET /\x01 HTTP/1.1\r\n\r\n", "a control byte in the request target"),
        (b"GET / HTTP/2.0\r\n\r\n", "only HTTP/1.0 and HTTP/1.1"),
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "a folded header line"),
        (b"GET / HTTP/1.1\r\nA\r\n\r\n", "a header line without a colon"),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", "a header name with a space"),
        (b"GET / HTTP/1.1\r\nA: \x02\r\n\r\n", "a control byte in a header value"),
        (b"GET / HTTP/1.1\r\n\r\n", "the Host field is missing"),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "the Host field is not a host and port"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", "more than one host field"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "CONNECT is not offered"),
        (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", "neither a path nor a URL"),
        (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "differ"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n", "the only expectation"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "has both"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "given twice"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", "is not a number"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "not exactly 'chunked'"),
        (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.0 and has a Transfer-Encoding"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: " + b"x," * 40 + b"\r\n\r\n", "connection options"),
    ],
)
def test_refusals_say_why(raw: bytes, diagnosis: str) -> None:
    with pytest.raises(ProtocolError, match=re.escape(diagnosis)) as error:
        parse_request(raw, LIMITS)
    assert error.value.code == "bad_request"


@pytest.mark.parametrize(
    ("raw", "limits"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Limits(head=20)),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n", Limits(headers=1)),
        (b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n", Limits(target=4)),
    ],
)
def test_limits(raw: bytes, limits: Limits) -> None:
    with pytest.raises(ProtocolError) as error:
        parse_request(raw, limits)
    assert error.value.code == "headers_too_large"


def test_exactly_at_the_limits() -> None:
    raw = b"GET /x HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n"
    assert parse_request(raw, Limits(head=len(raw), headers=2, target=2)).raw == raw


def test_hop_by_hop_fields_go_and_all_others_stay() -> None:
    head = request(
        b"A: 1", b"Connection: close, X-Mine, te", b"x-mine: 1", b"B: 2", b"Keep-Alive: timeout=5", b"X-MINE:2",
        b"Proxy-Connection: close", b"Upgrade: h2c", b"HTTP2-Settings: x", b"X-Sidecar-Error: draining", b"c:3 ",
    )  # fmt: skip
    assert head.raw == b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nc:3 \r\n\r\n"
    assert not head.keep_alive


@pytest.mark.parametrize(("left", "granted"), [(b"1500", 1.5), (b" 20 ", 0.02), (b"soon", inf), (b"9" * 30, inf)])
def test_the_time_that_a_caller_leaves_is_read_and_goes_no_further(left: bytes, granted: float) -> None:
    head = request(b"X-Sidecar-Deadline:" + left)
    assert (head.granted, head.raw) == (granted, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")


def test_a_peers_question_for_the_load_is_read_and_goes_no_further() -> None:
    head = request(ASK.title() + b": 1")
    assert (head.asks_load, head.raw) == (True, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert not request(b"X-Sidecar-Other: 1").asks_load
    assert not request().asks_load


def test_a_url_in_an_old_request_becomes_its_host() -> None:
    head = request(first=b"GET http://a:8080/x HTTP/1.0", host=b"")
    assert head.raw == b"GET /x HTTP/1.1\r\nhost: a:8080\r\n\r\n"


@pytest.mark.parametrize("name", [b"Host", b"Content-Length", b"Transfer-Encoding"])
def test_connection_cannot_make_vanish_what_a_message_needs(name: bytes) -> None:
    head = request(
        b"Connection: " + name, *([] if name == b"Host" else [name + (b": 5" if b"L" in name else b": chunked")])
    )
    assert name + b": " in head.raw


def test_te_trailers_goes_on() -> None:
    head = request(b"TE: trailers, deflate", b"Connection: TE")
    assert head.raw == b"GET / HTTP/1.1\r\nHost: a\r\nte: trailers\r\nconnection: te\r\n\r\n"


def test_upgrade_goes_on() -> None:
    head = request(b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x")
    assert head.upgrade == b"websocket"
    assert head.raw.endswith(b"Sec-WebSocket-Key: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    assert not request(b"Upgrade: websocket").upgrade


@pytest.mark.parametrize(
    ("first", "target", "raw"),
    [
        (b"GET http://A/x?y HTTP/1.1", b"/x?y", b"GET /x?y HTTP/1.1\r\n"),
        (b"GET HTTP://a HTTP/1.1", b"/", b"GET / HTTP/1.1\r\n"),
        (b"GET http://a?y HTTP/1.1", b"/?y", b"GET /?y HTTP/1.1\r\n"),
        (b"OPTIONS http://a HTTP/1.1", b"*", b"OPTIONS * HTTP/1.1\r\n"),
        (b"OPTIONS * HTTP/1.1", b"*", b"OPTIONS * HTTP/1.1\r\n"),
        (b"GET //b/ HTTP/1.1", b"//b/", b"GET //b/ HTTP/1.1\r\n"),
        (b"GET http://a:80/x HTTP/1.1", b"/x", b"GET /x HTTP/1.1\r\n"),
    ],
)
def test_forms_of_a_target(first: bytes, target: bytes, raw: bytes) -> None:
    head = request(first=first)
    assert head.target == target
    assert head.raw.startswith(raw)


@pytest.mark.parametrize(
    ("url", "host", "onward"),
    [
        ("http://shop.test:80", "shop.test", "shop.test:80"),
        ("http://shop.test", "shop.test:80", "shop.test"),
        ("https://shop.test:443", "Shop.Test", "shop.test:443"),
        ("http://shop.test:", "shop.test", "shop.test:"),
        ("http://[::1]", "[::1]:80", "[::1]"),
        ("http://SHOP.test", "shop.TEST", "shop.TEST"),
    ],
)
def test_a_port_that_says_nothing_may_differ_and_the_urls_authority_goes_on(url: str, host: str, onward: str) -> None:
    head = parse_request(f"GET {url}/x HTTP/1.1\r\nHost: {host}\r\nA: b\r\n\r\n".encode(), LIMITS)
    assert re.findall(rb"\r\n(?i:host): ([^\r]*)", head.raw) == [onward.encode()]
    assert head.get(b"host") == onward.encode()
    assert head.raw.startswith(b"GET /x HTTP/1.1\r\n")


def test_a_host_may_be_empty_or_have_a_zone() -> None:
    assert request(host=b"Host:\r\n").raw == b"GET / HTTP/1.1\r\nHost:\r\n\r\n"
    assert request(host=b"Host: [fe80::1%25eth0]:8080\r\n").get(b"host") == b"[fe80::1%25eth0]:8080"


def test_nothing_that_a_client_says_of_us_goes_on() -> None:
    head = request(
        b"X-Sidecar-Queued: 1", b"A: b", b"x-sidecar-error:draining", b"X_Sidecar_Queued: 2", b"x-sidecar-: 3",
        b"hostx-sidecar-a: stays", b"x-sidecars: stay", b"X-SIDECAR-Deadline: 4", b"x-sidecar-queued: 5",
    )  # fmt: skip
    assert head.raw == b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nhostx-sidecar-a: stays\r\nx-sidecars: stay\r\n\r\n"


@pytest.mark.parametrize("upgrade", ["h2c", "H2C", "websocket, h2c", "h2", "HTTP/2.0", "TLS/1.0"])
def test_protocols_that_would_hide_requests_are_not_asked_for(upgrade: str) -> None:
    head = request(b"Connection: upgrade, http2-settings", f"Upgrade: {upgrade}".encode(), b"HTTP2-Settings: AAA")
    assert not head.upgrade
    assert head.raw == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("asked", "answered", "good"),
    [
        ("websocket", "websocket", True),
        ("WebSocket", "websocket", True),
        ("websocket, spdy/3.1", "SPDY/3.1", True),
        ("websocket", "", True),
        ("a,b", "b\t, a", True),
        ("a, xb", "xb", True),
        ("a, X", "", True),
        ("Xa", "a", False),
        ("websocket", "h2c", False),
        ("websocket", "websocket, h2c", False),
        ("", "", False),
        ("", "websocket", False),
    ],
)
def test_a_switch_leads_where_it_was_asked_to(asked: str, answered: str, good: bool) -> None:
    field = f"Upgrade: {answered}\r\n" if answered else ""
    head = parse_response(f"HTTP/1.1 101 S\r\n{field}Connection: upgrade\r\n\r\n".encode(), LIMITS, "GET")
    assert is_switch(head, asked.encode()) is good


def test_http_1_0() -> None:
    head = parse_request(b"GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n", LIMITS, b"up")
    assert head.raw == b"GET / HTTP/1.1\r\nhost: up\r\n\r\n"
    assert not head.keep_alive
    assert not head.expects_continue
    assert request(b"Connection: keep-alive", first=b"GET / HTTP/1.0").keep_alive
    assert b"\r\nhost: b:8\r\n" in request(first=b"GET http://b:8/ HTTP/1.0", host=b"").raw


def test_get_finds_any_field() -> None:
    head = request(b"X-A:  b ", b"x-a: c")
    assert head.get(b"x-a") == b"b"
    assert head.get(b"host") == b"a"
    assert head.get(b"x-b") is None
    head.remove(b"x-a")
    assert head.get(b"x-a") is None
    head = request(b"Y: XX", b"X-Request-Id: XidX", b"Z:")
    assert (head.get(b"y"), head.get(b"x-request-id"), head.get(b"z")) == (b"XX", b"XidX", b"")
    head.remove(b"x-request-id")
    assert head.get(b"x-request-id") is None


def test_connection_options_that_peers_invent_leave_nothing_behind() -> None:
    def ask(n: int) -> None:
        options = [b"X%d-%d" % (n, k) + b"(*[" for k in range(30)]
        head = request(b"Connection: " + b" ,\t".join(options), *(b"x%d-%d: y" % (n, k) for k in range(30)), b"Z: 1")
        assert head.raw.endswith(b"y\r\nZ: 1\r\n\r\n")  # no such field: these names are none
        names = [b"X%d-%d" % (n, k) for k in range(30)]
        head = request(b"Connection: " + b" ,\t".join(names), *(b"x%d-%d: y" % (n, k) for k in range(30)), b"Z: 1")
        assert head.raw == b"GET / HTTP/1.1\r\nHost: a\r\nZ: 1\r\n\r\n"

    for n in range(20):
        ask(n)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(20, 120):
            ask(n)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 16_384  # 3000 names were given
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("lines", "method", "length", "keep"),
    [
        (b"200 OK\r\nContent-Length: 3\r\n", "GET", 3, True),
        (b"200 OK\r\ntransfer-encoding: Chunked\r\n", "GET", CHUNKED, True),
        (b"200 OK\r\n", "GET", UNTIL_CLOSE, True),
        (b"200 OK\r\nContent-Length: 3\r\nConnection: x, close\r\n", "GET", 3, False),
        (b"200 OK\r\nContent-Length: 3\r\n", "HEAD", 0, True),
        (b"304 N\r\nContent-Length: 3\r\n", "GET", 0, True),
        (b"204 N\r\n", "GET", 0, True),
        (b"100 C\r\n", "POST", 0, True),
    ],
)
def test_answers(lines: bytes, method: str, length: int, keep: bool) -> None:
    head = parse_response(b"HTTP/1.1 " + lines + b"\r\n", LIMITS, method)
    assert (head.status, head.length, head.keep_alive) == (int(lines[:3]), length, keep)


@pytest.mark.parametrize(
    ("raw", "limits", "text"),
    [
        (b"HTTP/2.0 200 OK\r\n\r\n", LIMITS, "the upstream's answer is not valid HTTP: a malformed head"),
        (
            b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n",
            Limits(head=24),
            "the head of the upstream's answer is larger than 24 bytes",
        ),
        (
            b"HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\n\r\n",
            Limits(headers=1),
            "the upstream's answer has more than 1 header fields",
        ),
    ],
)
def test_bad_answers_are_the_upstreams(raw: bytes, limits: Limits, text: str) -> None:
    with pytest.raises(ProtocolError, match="^" + re.escape(text)) as error:
        parse_response(raw, limits, "GET")
    assert error.value.code == "bad_upstream"


def test_an_answer_exactly_at_the_limits() -> None:
    raw = b"HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\n\r\n"
    assert parse_response(raw, Limits(head=len(raw), headers=2), "GET").raw == raw


def answer(lines: bytes, method: str = "GET", peer: bool = False) -> ResponseBlock:
    return parse_response(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n", LIMITS, method, peer)


@pytest.mark.parametrize(
    ("lines", "length", "onward"),
    [
        (b"Content-Length: 5\r\ncontent-length:5\r\n", 5, b"content-length: 5\r\n"),
        (b"Content-Length: 5, 05 ,5\r\n", 5, b"content-length: 5\r\n"),
        (b"Content-Length: 0,00\r\n", 0, b"content-length: 0\r\n"),
        (b"Content-Length: 005\r\n", 5, b"content-length: 5\r\n"),
        (b"Content-Length: " + b"0" * 40 + b"7\r\n", 7, b"content-length: 7\r\n"),
        (b"Content-Length:\t5 \r\n", 5, b"Content-Length:\t5 \r\n"),
        (b"Transfer-Encoding:chunked\t\r\n", CHUNKED, b"transfer-encoding: chunked\r\n"),
        (b"Transfer-Encoding: CHUNKED \r\n", CHUNKED, b"Transfer-Encoding: CHUNKED \r\n"),
    ],
)
def test_an_answers_odd_framing_goes_on_in_the_usual_form(lines: bytes, length: int, onward: bytes) -> None:
    head = answer(lines)
    assert (head.length, head.raw) == (length, b"HTTP/1.1 200 OK\r\n" + onward + b"\r\n")


def test_zeros_in_front_of_a_requests_length_do_not_go_on() -> None:
    head = request(b"Content-Length: 010", first=b"POST / HTTP/1.1")
    assert head.length == 10
    assert head.raw == b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 10\r\n\r\n"


@pytest.mark.parametrize("status", [100, 103, 204])
@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_what_has_no_body_goes_on_without_framing(status: int, framing: bytes) -> None:
    head = parse_response(b"HTTP/1.1 %d X\r\nA: b\r\n%b\r\n" % (status, framing), LIMITS, "GET")
    assert (head.length, head.keep_alive, head.raw) == (0, False, b"HTTP/1.1 %d X\r\nA: b\r\n\r\n" % status)


def test_only_a_sidecar_says_what_sidecars_say() -> None:
    lines = b"X-Sidecar-Error: draining\r\nX-Sidecar-Queued: 1\r\nx_sidecar_error: x\r\nA: b\r\n"
    app, peer = answer(lines), answer(lines, peer=True)
    assert app.raw == b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
    assert b"x-sidecar-error" not in app.fields
    assert peer.raw == b"HTTP/1.1 200 OK\r\nX-Sidecar-Queued: 1\r\nA: b\r\n\r\n"
    assert peer.fields[b"x-sidecar-error"] == b" draining"


@pytest.mark.parametrize("name", ["x-sidecar-error", "x-sidecar-retried"])
def test_each_of_those_is_read_of_a_sidecar_alone(name: str) -> None:
    line = f"{name.title()}: draining\r\n".encode()
    app, peer = answer(line), answer(line, peer=True)
    assert (app.raw, app.fields) == (b"HTTP/1.1 200 OK\r\n\r\n", {})
    assert peer.fields == {name.encode(): b" draining"}


def test_a_connection_is_kept_as_the_answer_says() -> None:
    assert answer(b"Connection: keep-alive\r\n").keep_alive
    assert answer(b"Connection: Keep-Alive\r\n").keep_alive
    assert not answer(b"Connection: close\r\n").keep_alive
    assert parse_response(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", LIMITS, "GET").keep_alive
    assert not parse_response(b"HTTP/1.0 200 OK\r\n\r\n", LIMITS, "GET").keep_alive


@pytest.mark.parametrize("length", [0, 1])
def test_a_length_without_a_body_ends_the_connection_unless_it_is_none(length: int) -> None:
    head = parse_response(b"HTTP/1.1 204 No\r\nContent-Length: %d\r\n\r\n" % length, LIMITS, "GET")
    assert (head.length, head.keep_alive) == (0, length == 0)


def test_the_beginning_of_an_answer() -> None:
    good = b"HTTP/1.1 200 OK\r\nA: b\r\n"
    assert not any(hopeless_answer(good[:n], n - 1) for n in range(1, len(good)))
    for bad in (b"S", b"HTTP/2", b"\r\n", b"HTTP/1.1 200 OK\n", b"HTTP/1.1 200 OK\r\nA\x00"):
        assert hopeless_answer(bad), bad


def test_an_answers_hop_by_hop_fields() -> None:
    raw = b"HTTP/1.0 200 OK\r\nA: 1\r\nConnection: keep-alive, x\r\nX: y\r\nKeep-Alive: 5\r\nContent-Length: 0\r\n\r\n"
    head = parse_response(raw, LIMITS, "GET")
    assert head.raw == b"HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: 0\r\n\r\n"
    assert head.keep_alive


# -- properties -----------------------------------------------------------------------------------------------------

_TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ACTED_ON = {
    "host", "connection", "content-length", "transfer-encoding", "expect", "upgrade", "te", "keep-alive",
    "proxy-connection", "http2-settings",
}  # fmt: skip
names = (
    st.text(_TOKEN, min_size=1, max_size=20)
    .filter(lambda name: name.lower() not in _ACTED_ON and not re.match("(?i)x[-_]sidecar[-_]", name))
    .map(str.encode)
)
values = st.binary(max_size=40).map(lambda value: re.sub(rb"[\x00-\x08\x0a-\x1f\x7f]", b"?", value))
targets = st.text("".join(chr(c) for c in range(0x21, 0x7F)), max_size=30).map(lambda text: b"/" + text.encode())


@given(st.text(_TOKEN, min_size=1, max_size=10), targets, st.lists(st.tuples(names, values), max_size=20))
def test_good_heads_pass_byte_for_byte(method: str, target: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    if method.upper() in ("CONNECT", "PRI"):
        return
    lines = b"".join(b"%b:%b\r\n" % field for field in fields)
    raw = b"%b %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (method.encode(), target, lines)
    head = parse_request(raw, LIMITS)
    assert (head.raw, head.method, head.target, head.length) == (raw, method, target, 0)
    assert not any(hopeless(raw[:n]) for n in range(len(raw)))


SEEDS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /a?b HTTP/1.1\r\nHost: a:80\r\nContent-Length: 12\r\nConnection: keep-alive, x\r\nx: y\r\n\r\n",
    b"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
]
insertions = st.sampled_from([b"\r", b"\n", b"\r\n", b"\x00", b" ", b":", b","]) | st.binary(max_size=3)
mutations = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 3), insertions), max_size=5)


def mutate(raw: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for at, drop, insert in changes:
        at %= len(raw) + 1
        raw = raw[:at] + insert + raw[at + drop :]
    return raw


@given(st.sampled_from(SEEDS), mutations)
def test_what_is_accepted_has_one_reading(seed: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    raw = mutate(seed, changes)
    try:
        head = parse_request(raw, LIMITS)
    except ProtocolError:
        return
    out = head.raw
    assert out.endswith(b"\r\n\r\n")
    assert b"\r\n\r\n" not in out[:-4]
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", out)
    first, *lines = out[:-4].split(b"\r\n")
    method, target, version = first.split(b" ")
    assert (method.decode(), target, version) == (head.method, head.target, b"HTTP/1.1")
    fields = [line.partition(b":") for line in lines]
    assert all(re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name) and colon for name, colon, _ in fields)
    present = [name.lower() for name, _, _ in fields]
    assert present.count(b"host") == 1
    framings = [
        (n.lower(), v.strip(b" \t").lower())
        for n, _, v in fields
        if n.lower() in (b"content-length", b"transfer-encoding")
    ]
    if head.length == CHUNKED:
        assert framings == [(b"transfer-encoding", b"chunked")]
    elif framings:
        assert framings == [(b"content-length", framings[0][1])]
        assert int(framings[0][1]) == head.length >= 0
    else:
        assert head.length == 0
    for gone in (b"keep-alive", b"proxy-connection", b"http2-settings"):
        assert gone not in present
    assert not any(re.match(rb"x[-_]sidecar[-_]", name) for name in present)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_parsed(raw: bytes) -> None:
    for parse in (lambda: parse_request(raw, LIMITS), lambda: parse_response(raw, LIMITS, "GET")):
        try:
            parse()
        except ProtocolError:
            pass


@given(st.sampled_from(SEEDS), mutations)
def test_hopeless_is_said_once_and_is_right(seed: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    raw = mutate(seed, changes)
    in_pieces = any(hopeless(raw[:n], n - 1) for n in range(1, len(raw) + 1))
    assert in_pieces == any(hopeless(raw[:n]) for n in range(1, len(raw) + 1))
    if in_pieces:
        with pytest.raises(ProtocolError):
            parse_request(raw, LIMITS)


def test_a_head_is_changed_by_names_and_values() -> None:
    head = request(b"A: 1", b"b: 2", b"a: 3")
    head.add(b"x-c", b"4")
    head.put_first(b"first", b"0")
    head.remove(b"a")
    assert head.as_http1() == b"GET / HTTP/1.1\r\nfirst: 0\r\nHost: a\r\nb: 2\r\nx-c: 4\r\n\r\n"
    assert [head.get(name) for name in (b"first", b"host", b"a", b"x-c")] == [b"0", b"a", None, b"4"]
