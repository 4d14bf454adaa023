from __future__ import annotations

import pytest

from sidecar.resilience.ejection import STANDARD, EjectionRules


def test_without_a_section_ejections_double_and_with_one_they_grow_by_the_first() -> None:
    assert [STANDARD.length("consecutive", n) for n in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    rules = EjectionRules(first=10.0, longest=35.0, doubling=False)
    assert [rules.length("latency", n) for n in range(5)] == [10, 20, 30, 35, 35]
    assert [rules.length("unreachable", n) for n in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert EjectionRules(longest=0.5, doubling=False).length("unreachable", 3) == 0.5
    assert STANDARD.length("unreachable", 10**9) == 30


@pytest.mark.parametrize(("share", "size", "most"), [(0.5, 5, 2), (0.5, 1, 1), (0.1, 9, 1), (0.3, 10, 3), (1.0, 4, 4)])
def test_one_may_always_be_ejected(share: float, size: int, most: int) -> None:
    assert EjectionRules(at_most=share).most(size) == most
