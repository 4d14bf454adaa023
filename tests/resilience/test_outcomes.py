from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.resilience.outcomes import LATENCIES, PARTS, ErrorRate, Latencies, median, slow

tries = st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60)


@given(tries)
def test_the_ring_has_what_came_in_the_window_to_a_part_of_it(tries: list[tuple[float, bool]]) -> None:
    rate = ErrorRate(10.0)
    now = 100.0
    all_of_them: list[tuple[float, bool]] = []
    for seconds, bad in tries:
        now += seconds
        all_of_them.append((now, bad))
        rate.count(now, bad)
        for counted, wanted in ((rate.total, (True, False)), (rate.bad, (True,))):
            surely = [at for at, b in all_of_them if at > now - 10.0 * (PARTS - 1) / PARTS and b in wanted]
            perhaps = [at for at, b in all_of_them if at > now - 10.0 - 1e-6 and b in wanted]
            assert len(surely) <= counted <= len(perhaps)
    rate.forget(now + 10.0)
    assert (rate.total, rate.bad) == (0, 0)


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=200), st.integers(1, LATENCIES))
def test_the_median_is_of_the_newest(values: list[float], least: int) -> None:
    latencies = Latencies()
    for n, value in enumerate(values):
        latencies.add(float(n), value)
    newest = values[-LATENCIES:]
    assert latencies.median(0.0, least) == (median(newest) if len(newest) >= least else 0.0)
    half = len(values) - len(newest) // 2
    late = [value for n, value in enumerate(values) if n >= half]
    assert latencies.median(float(half), 1) == (median(late) if late else 0.0)
    latencies.clear()
    assert latencies.median(0.0, 1) == 0.0


def test_the_oldest_goes_however_many_have_come() -> None:
    latencies = Latencies()
    for n in range(3 * LATENCIES + 5):
        latencies.add(float(n), float(n))
        if n >= LATENCIES:
            kept = [float(at) for at in range(n - LATENCIES + 1, n + 1)]
            assert latencies.median(kept[0], LATENCIES) == median(kept)
            assert latencies.median(kept[-3], 3) == kept[-2]
            assert latencies.median(kept[-2], 3) == 0.0


def test_the_median_of_an_even_number_is_the_lower_one_of_two() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.0
    assert median([6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 7.0]) == 4.0


def test_what_is_slow_is_so_by_ratio_and_by_time() -> None:
    assert slow(0.1, 0.02, 3)
    assert not slow(0.05, 0.02, 3)
    assert not slow(0.005, 0.001, 3), "five times as slow, and nobody notices"
