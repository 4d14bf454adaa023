from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.text import utf8


@given(st.binary())
def test_whatever_came_from_the_wire_can_be_encoded(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    shown = utf8(text)
    shown.encode()
    if text == data.decode("utf-8", "replace"):
        assert shown == text


def test_bytes_that_are_no_text_stay_readable() -> None:
    assert utf8("aufträge\udcff") == "aufträge\\udcff"
