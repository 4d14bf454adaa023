"""A proof is good for one path, for a minute, with one token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.proof import LEEWAY, proof, proven

NOW = 1_790_000_000.0


def test_as_it_is_written() -> None:
    field = proof("secret", "GET", "/why/a", NOW)
    assert field.startswith("Sidecar 1790000000:")
    assert "secret" not in field
    assert proven(field, "secret", "GET", "/why/a", NOW)


@given(st.text(min_size=1), st.text(), st.integers(-LEEWAY, LEEWAY))
def test_it_holds_for_a_minute_either_way(token: str, path: str, seconds: int) -> None:
    assert proven(proof(token, "GET", path, NOW), token, "GET", path, NOW + seconds)


def test_it_is_good_for_nothing_else() -> None:
    field = proof("secret", "GET", "/why/a", NOW)
    assert not proven(field, "secret", "GET", "/why/b", NOW)
    assert not proven(field, "other", "GET", "/why/a", NOW)
    assert not proven(field, "secret", "GET", "/why/a", NOW + LEEWAY + 2)
    assert not proven(field, "secret", "GET", "/why/a", NOW - LEEWAY - 2)
    assert not proven(proof("secret", "POST", "/why/a", NOW), "secret", "POST", "/why/a", NOW)


@given(st.text())
def test_anything_else_is_refused(field: str) -> None:
    assert not proven(field, "secret", "GET", "/why/a", NOW)
