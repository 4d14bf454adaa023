"""What a head means by its version: whether the connection stays, what is expected, and whose answer is odd."""

from __future__ import annotations

import pytest

from sidecar.core.limits import Limits
from sidecar.core.replies import ProtocolError
from sidecar.http.h1.blocks import RequestBlock, ResponseBlock
from sidecar.http.h1.diagnose import hopeless
from sidecar.http.h1.framing import CHUNKED, UNTIL_CLOSE
from sidecar.http.h1.head import parse_request, parse_response

LIMITS = Limits()


def request(first: str, *lines: str) -> RequestBlock:
    return parse_request("\r\n".join((first, "Host: a", *lines, "", "")).encode(), LIMITS)


def response(first: str, *lines: str, method: str = "GET", peer: bool = False) -> ResponseBlock:
    return parse_response("\r\n".join((first, *lines, "", "")).encode(), LIMITS, method, peer)


# -- connections -------------------------------------------------------------------------------------------------------

#: Fields, and whether a connection stays: of HTTP/1.1, of HTTP/1.0.
KEPT = [
    ((), True, False),
    (("Connection: close",), False, False),
    (("Connection: keep-alive",), True, True),
    (("Connection:keep-alive",), True, True),
    (("Connection: Keep-Alive",), True, True),
    (("Connection: x, keep-alive",), True, True),
    (("Connection: keep-alive, close",), False, False),
    (("Connection: CLOSE",), False, False),
    (("Connection: x",), True, False),
    (("Connection:",), True, False),
    (("Keep-Alive: timeout=5",), True, False),
    (("Proxy-Connection: keep-alive",), True, False),
    (("Upgrade: websocket",), True, False),
]


@pytest.mark.parametrize(("fields", "new", "old"), KEPT)
def test_whether_a_clients_connection_stays(fields: tuple[str, ...], new: bool, old: bool) -> None:
    for version, kept in ((1, new), (0, old)):
        head = request(f"GET / HTTP/1.{version}", *fields)
        assert (head.version, head.keep_alive) == (version, kept)
        assert head.raw.startswith(b"GET / HTTP/1.1\r\nHost: a\r\n")


@pytest.mark.parametrize(("fields", "new", "old"), KEPT)
def test_whether_an_upstreams_connection_stays(fields: tuple[str, ...], new: bool, old: bool) -> None:
    for version, kept in ((1, new), (0, old)):
        head = response(f"HTTP/1.{version} 200 OK", "Content-Length: 0", *fields)
        assert head.keep_alive is kept
        assert head.raw == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def test_an_answer_of_http_1_0_ends_with_its_connection_or_its_length() -> None:
    head = response("HTTP/1.0 200 OK")
    assert (head.length, head.keep_alive, head.raw) == (UNTIL_CLOSE, False, b"HTTP/1.1 200 OK\r\n\r\n")
    assert response("HTTP/1.0 200 OK", "Content-Length: 7").length == 7
    with pytest.raises(ProtocolError) as error:
        response("HTTP/1.0 200 OK", "Transfer-Encoding: chunked")
    assert error.value.code == "bad_upstream"


@pytest.mark.parametrize("options", [32, 33])
def test_so_many_connection_options_there_may_be(options: int) -> None:
    field = "Connection: " + ",".join(f"x{n}" for n in range(options))
    if options == 32:
        assert request("GET / HTTP/1.1", field).keep_alive
        assert response("HTTP/1.1 200 OK", field).keep_alive
    else:
        with pytest.raises(ProtocolError, match="connection options") as error:
            request("GET / HTTP/1.1", field)
        assert error.value.code == "bad_request"
        with pytest.raises(ProtocolError, match=r"^the upstream's answer is ambiguous: .*connection options") as error:
            response("HTTP/1.1 200 OK", field)
        assert error.value.code == "bad_upstream"


# -- expectations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["100-continue", "100-Continue", "100-continue\t "])
def test_a_client_that_waits_to_be_told(value: str) -> None:
    head = request("POST / HTTP/1.1", "Content-Length: 1", f"Expect: {value}")
    assert head.expects_continue
    assert b"\r\nExpect: 100-" in head.raw
    assert not request("POST / HTTP/1.1", "Content-Length: 1").expects_continue
    head = request("POST / HTTP/1.0", "Content-Length: 1", f"Expect: {value}")
    assert not head.expects_continue  # it does not know such an answer
    assert b"xpect" not in head.raw
    assert head.get(b"expect") is None


# -- methods and targets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("PRI", "only HTTP/1.0 and HTTP/1.1 are spoken here"),
        ("pri", "only HTTP/1.0 and HTTP/1.1 are spoken here"),
        ("CONNECT", "CONNECT is not offered here"),
        ("connect", "CONNECT is not offered here"),
    ],
)
def test_methods_that_would_be_another_protocol(method: str, text: str) -> None:
    with pytest.raises(ProtocolError, match=f"^{text}") as error:
        request(f"{method} / HTTP/1.1")
    assert error.value.code == "bad_request"
    for other in (f"{method}X", f"X{method}"):
        assert request(f"{other} / HTTP/1.1").method == other


@pytest.mark.parametrize(
    ("first", "given", "seen"),
    [
        ("GET http://b/x HTTP/1.1", "b", b"b"),
        ("GET http://b/x HTTP/1.1", "B", b"B"),
        ("GET http://b:80/x HTTP/1.1", "b", b"b:80"),
        ("GET https://b/x HTTP/1.1", "b:443", b"b"),
        ("GET http://b:8/x HTTP/1.0", None, b"b:8"),
        ("GET http://b HTTP/1.0", None, b"b"),
        ("GET /x HTTP/1.0", None, b"up"),
    ],
)
def test_filters_see_the_host_that_goes_on(first: str, given: str | None, seen: bytes) -> None:
    lines = [first, *([] if given is None else [f"Host: {given}"]), "A: b", "", ""]
    head = parse_request("\r\n".join(lines).encode(), LIMITS, b"up")
    assert head.get(b"host") == seen
    assert head.raw.lower().count(b"\r\nhost:") == 1
    if "://" in first:
        assert head.fields[b"host"].strip() == seen
        assert b" HTTP/1.1\r\n" in head.raw
        assert b"://" not in head.raw


@pytest.mark.parametrize("target", ["ftp://a/x", "http:/a", "a", "a:80", "*", "://a", "xhttp://a"])
def test_targets_that_lead_nowhere(target: str) -> None:
    with pytest.raises(ProtocolError, match=r"^the request target is neither a path nor a URL$"):
        request(f"GET {target} HTTP/1.1")


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (
            ("Content-Length: 1", "Transfer-Encoding: chunked"),
            "the answer has both Content-Length and Transfer-Encoding",
        ),
        (("Content-Length: 1", "Content-Length: 2"), "more than one content-length field"),
        (("Transfer-Encoding: gzip",), "the answer's Transfer-Encoding is not exactly 'chunked'"),
        (("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), "more than one transfer-encoding field"),
        (("Content-Length: x",), "the answer's Content-Length is not a number"),
    ],
)
def test_an_answer_with_two_readings_is_the_upstreams_fault(lines: tuple[str, ...], why: str) -> None:
    with pytest.raises(ProtocolError) as error:
        response("HTTP/1.1 200 OK", *lines)
    assert (str(error.value), error.value.code) == (f"the upstream's answer is ambiguous: {why}", "bad_upstream")


def test_an_answer_without_a_body_that_says_chunks_follow() -> None:
    for lines, kept in ((("Transfer-Encoding: chunked",), False), (("Content-Length: 5",), True), ((), True)):
        head = response("HTTP/1.1 304 Not Modified", *lines)
        # Whether an empty chunk follows is anybody's guess.
        assert (head.length, head.keep_alive) == (0, kept)
        assert all(line.encode() in head.raw for line in lines)
    head = response("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", method="HEAD")
    assert (head.length, head.keep_alive) == (0, True)
    assert response("HTTP/1.1 200 OK", "Transfer-Encoding: chunked").length == CHUNKED


def test_what_sidecars_say_is_taken_out_of_every_answer_of_others() -> None:
    ours = ("X-Sidecar-Error: draining", "x_sidecar-queued: 1")
    for first, lines in (("HTTP/1.1 200 OK", ("A: b",)), ("HTTP/1.1 101 S", ("Upgrade: w", "Connection: upgrade"))):
        head = response(first, *ours, *lines)
        assert head.raw == "\r\n".join((first, *lines, "", "")).encode()
        assert b"x-sidecar-error" not in head.fields
        head = response(first, *ours, *lines, peer=True)
        assert head.raw == "\r\n".join((first, ours[1], *lines, "", "")).encode()
        assert head.fields[b"x-sidecar-error"] == b" draining"  # for the retry; it does not go on


# -- beginnings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [b"A\nB", b"A\rB", b"AB\x00", b"\nAB", b"\r\n\nA"])
def test_a_beginning_is_looked_at_where_it_went_on(bad: bytes) -> None:
    """However it comes, it is found with the byte that shows it."""
    for cut in range(len(bad) + 1):
        found = cut > 0 and hopeless(bad[:cut])
        assert found or hopeless(bad, cut), (bad, cut)


def test_a_good_beginning_is_not_refused_wherever_it_was_cut() -> None:
    good = b"GET / HTTP/1.1\r\nHost: a\r\n\r"
    for end in range(1, len(good) + 1):
        for start in range(end):
            assert not hopeless(good[:end], start), (end, start)
