"""Which model a body asks for."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.llm.asked_model import field_of
from support.examples import examples


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'{"model": "llama3.2", "prompt": "hi"}', "llama3.2"),
        (b' {"messages": [{"model": "no"}], "n": 1, "model":"gpt-4o" ', "gpt-4o"),
        (b'{"model": "llama3.2", "prompt": "no end', "llama3.2"),
        (b'{"model": "a", "model": "b"}', "a"),
        (b'{"m\\u006fdel": "a"}', "a"),
        (b'{"model": 7}', ""),
        (b'{"model": "with space"}', ""),
        (b'{"model": "' + b"x" * 129 + b'"}', ""),
        (b'{"prompt": "cut', ""),
        (b'{"prompt": [1', ""),
        (b'{"prompt" "a"}', ""),
        (b'{"prompt": 1; "model": "a"}', ""),
        (b'["model"]', ""),
        (b"", ""),
        (b"{", ""),
        (b"{}", ""),
        (b"\xff\xfe", ""),
        (b'{"a": ' + b"[" * 100_000, ""),
    ],
)
def test_the_field_of_the_outermost_object(body: bytes, model: str) -> None:
    assert field_of(body, "model") == model


VALUES = st.sampled_from(
    [None, True, 7, "a", "\\", '"}', ["model", {"model": "x"}], {"model": "y", "b": [[], {}]}, 1.5e3]
)


@given(st.lists(VALUES, max_size=4), st.integers(0, 200))
@settings(max_examples=examples(100))
def test_it_is_found_wherever_it_stands(others: list[object], cut: int) -> None:
    whole = json.dumps({**{f"o{n}": it for n, it in enumerate(others)}, "model": "m"}).encode()
    assert field_of(whole, "model") == "m"
    assert field_of(whole[:cut], "model") in ("", "m")
