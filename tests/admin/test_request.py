"""A request to the admin API, out of whatever bytes somebody sends."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.admin.request import Request
from sidecar.core.replies import ProtocolError

WHOLE = b"PUT /echo/%61?a=1&b=%ff HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX: y\r\n\r\n"


@given(st.data())
@example(None)
def test_it_is_parsed_or_refused_whatever_its_bytes_are(data: st.DataObject | None) -> None:
    raw = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(0, 4)) if data is not None else 0):
        assert data is not None
        raw[data.draw(st.integers(0, len(raw) - 5))] = data.draw(st.integers(0, 255))
    with suppress(ProtocolError):
        request = Request(bytes(raw), None)
        request.most = 10
        request.feed(b"abc")
        assert request.path == "/" + "/".join(request.parts) or not request.parts


def test_what_is_in_it() -> None:
    request = Request(WHOLE, "10.0.0.1")
    assert (request.method, request.path, request.parts) == ("PUT", "/echo/a", ("echo", "a"))
    assert request.query == [("a", "1"), ("b", "\ufffd")]
    assert request.headers.get("x", "") == "y"
    request.most = 3
    assert request.feed(b"abcGET") == b"GET"
    assert request.complete
