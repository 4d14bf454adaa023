"""A memory bounded in entries and in bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.resilience.lru import Lru


def test_what_was_not_used_for_the_longest_goes_first() -> None:
    memory = Lru(2, 100)
    memory.put("a", 1, 10)
    memory.put("b", 2, 10)
    assert memory.get("a") == 1
    memory.put("c", 3, 10)
    assert [memory.get(key) for key in "abc"] == [1, None, 3]
    assert (len(memory), memory.size, memory.dropped) == (2, 20, 1)


def test_what_is_too_large_is_not_kept_and_takes_the_old_one_with_it() -> None:
    memory = Lru(2, 100)
    assert memory.put("a", 1, 100)
    assert not memory.put("a", 2, 101)
    assert (memory.get("a"), memory.size) == (None, 0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60)), max_size=50))
def test_the_bounds_hold(puts: list[tuple[int, int]]) -> None:
    memory = Lru(3, 100)
    kept: dict[int, int] = {}
    for key, size in puts:
        assert memory.put(key, size, size)
        kept[key] = size
        assert len(memory) <= 3
        assert memory.size <= 100
        found = [it for it in kept if memory.get(it) is not None]
        assert memory.size == sum(kept[it] for it in found)
        assert memory.get(key) == size
