"""Limits that sidecars share: nothing passes that was not granted, and all of it together is never too much."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.resilience.shared_limit import ASKED, AWAY_WAIT, GRACE, LAPSE, MOST_WAITING, Lease, SharedLimit
from support.clock import Clock
from support.examples import examples

COUNTS = ("local", "refuse", "allow")


class Bucket:
    """What the script in Redis does for a key, with time as an argument."""

    def __init__(self, rate: float, burst: int) -> None:
        self.interval, self.burst, self.full = 1 / rate, burst, 0.0
        self.granted = 0

    def take(self, wanted: int, now: float) -> tuple[int, float]:
        full = max(self.full, now)
        most = int((now + self.burst * self.interval - full) / self.interval + 0.001)
        granted = max(0, min(most, wanted))
        self.full = full = full + granted * self.interval
        self.granted += granted
        return granted, max(0.0, full + self.interval - now - self.burst * self.interval)


class Store:
    """Answers when a test says so; ``up``: it can be asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Lease, int]] = []
        self.up = True

    def ask(self, limit: Any, lease: Lease, tokens: int) -> bool:
        if self.up:
            self.asked.append((lease, tokens))
        return self.up


class Waits:
    """A request that waits. ``here``: it has not left."""

    def __init__(self, here: bool = True) -> None:
        self.told: list[float] = []
        self.here = here

    def decide(self, wait: float) -> bool:
        if self.here:
            self.told.append(wait)
        return self.here


class Bench:
    """A limit at work."""

    def __init__(self, rate: float = 100.0, burst: int = 100, keyed: bool = False, **more: Any) -> None:
        self.clock = Clock()
        self.store = Store()
        self.counts = dict.fromkeys(COUNTS, 0)
        self.limit = SharedLimit("it", rate, burst, keyed, self.store.ask, self.clock, lambda: 0.5, self.counts, **more)

    def ask(self, key: bytes | str = b"") -> Waits:
        """A request that has to wait for the answer."""
        assert self.limit.take(key) == ASKED
        waits = Waits()
        self.limit.join(key, waits)
        return waits

    def grant(self, granted: int | None = None, again: float = 0.0) -> int:
        """The store answers the oldest question; how much that was about."""
        lease, tokens = self.store.asked.pop(0)
        self.limit.answered(lease, tokens if granted is None else granted, again)
        return tokens

    def fail(self) -> None:
        self.limit.failed(self.store.asked.pop(0)[0])

    def spend(self, seconds: float, rate: float) -> list[float]:
        """Requests at that rate, each question answered at once."""
        found = []
        for _ in range(round(seconds * rate)):
            verdict = self.limit.take(b"")
            if verdict == ASKED:
                waits = Waits()
                self.limit.join(b"", waits)
                self.grant()
                (verdict,) = waits.told
            while self.store.asked:
                self.grant()
            found.append(verdict)
            self.clock.advance(1 / rate)
        return found


def test_the_first_request_of_a_key_waits_for_the_store() -> None:
    bench = Bench()
    first = bench.ask()
    assert first.told == []
    assert bench.grant() == 1
    assert first.told == [0.0]
    assert bench.limit.view() == {"shared": "redis", "sidecars": 1, "keys": 1, "leased": 0}


def test_those_who_come_meanwhile_ask_together() -> None:
    bench = Bench()
    waiting = [bench.ask() for _ in range(5)]
    assert bench.grant() == 1
    assert [it.told for it in waiting] == [[0.0], [], [], [], []]
    assert bench.grant() == 7  # for the four of them, and half as much as all that were wanted
    assert [it.told for it in waiting] == [[0.0]] * 5
    assert [bench.limit.take(b"") for _ in range(3)] == [0.0, 0.0, 0.0]


def test_the_next_lease_is_asked_for_when_half_is_left_and_nobody_waits() -> None:
    bench = Bench(rate=1000.0, burst=1000)
    bench.spend(0.5, 200)
    asked = 0
    for _ in range(200):
        assert bench.limit.take(b"") == 0.0
        asked += len(bench.store.asked)
        while bench.store.asked:
            assert 2 <= bench.grant() <= 30
        bench.clock.advance(0.005)
    assert 8 <= asked <= 20  # in a second


def test_a_lease_is_bounded_by_the_burst_and_the_number_of_sidecars() -> None:
    bench = Bench(rate=1000.0, burst=160)
    bench.limit.sidecars = 8
    bench.spend(1.0, 1000)
    assert bench.limit.view()["leased"] <= 10
    bench.limit.sidecars = 100
    bench.spend(1.0, 1000)
    assert bench.limit.view()["leased"] == 0  # one at a time


def test_few_requests_are_exact() -> None:
    bench = Bench(rate=1.0, burst=1000)
    for _ in range(20):
        waits = bench.ask()
        assert bench.grant() == 1
        assert waits.told == [0.0]
        assert bench.store.asked == []
        bench.clock.advance(0.2)


def test_tokens_lapse() -> None:
    bench = Bench(rate=1000.0, burst=1000)
    bench.spend(0.5, 500)
    assert bench.limit.view()["leased"] > 10
    bench.clock.advance(LAPSE)
    assert bench.limit.view()["leased"] == 0
    bench.ask()


def test_what_is_refused_is_not_asked_for_until_there_may_be_more() -> None:
    bench = Bench(rate=0.1, burst=1)
    first = bench.ask()
    bench.grant(0, again=7.0)
    (wait,) = first.told
    assert 7.0 <= wait <= 7.1
    bench.clock.advance(6.9)
    assert bench.limit.take(b"") == pytest.approx(wait - 6.9)
    assert bench.store.asked == []
    bench.clock.advance(0.2)
    bench.ask()


def test_an_empty_bucket_is_asked_about_at_a_pace() -> None:
    bench = Bench(rate=1000.0, burst=1000)
    bench.ask()
    bench.grant(0, again=0.001)
    asked = 0
    for _ in range(1000):
        bench.clock.advance(0.001)
        if bench.limit.take(b"") == ASKED:
            asked += 1
            bench.grant(0, again=0.001)
    assert asked == pytest.approx(20, abs=2)


def test_the_pace_loses_no_tokens_of_a_small_burst() -> None:
    bench = Bench(rate=1000.0, burst=4)
    bench.ask()
    bench.grant(0, again=0.001)
    assert 0.001 <= bench.limit.take(b"") < 0.004


def test_who_has_left_leaves_its_token_to_the_next() -> None:
    bench = Bench()
    gone, next_one = bench.ask(), bench.ask()
    gone.here = False
    bench.grant()
    assert next_one.told == [0.0]


def test_some_are_granted_and_the_others_refused() -> None:
    bench = Bench(rate=1.0, burst=10)
    first, *others = [bench.ask() for _ in range(4)]
    bench.grant()
    assert bench.grant(2, again=0.5) >= 3
    assert first.told == [0.0]
    assert [it.told == [0.0] for it in others] == [True, True, False]
    assert others[-1].told[0] >= 0.5


@pytest.mark.parametrize(
    ("mode", "passed"), [("local", [True] * 2 + [False] * 2), ("refuse", [False] * 4), ("allow", [True] * 4)]
)
def test_without_the_store(mode: str, passed: list[bool]) -> None:
    bench = Bench(rate=8.0, burst=16, on_failure=mode)
    bench.limit.sidecars = 8
    bench.store.up = False
    assert [bench.limit.take(b"") == 0.0 for _ in range(4)] == passed
    assert bench.counts == {**dict.fromkeys(COUNTS, 0), mode: 4}
    assert bench.limit.view()["shared"] == mode
    if mode == "refuse":
        assert bench.limit.take(b"") == AWAY_WAIT
    if mode == "local":
        bench.clock.advance(1.0)
        assert [bench.limit.take(b"") == 0.0 for _ in range(2)] == [True, False]
        bench.limit.sidecars = 4  # it has heard of fewer: their share is larger
        assert [bench.limit.take(b"") == 0.0 for _ in range(5)] == [True] * 4 + [False]


def test_a_share_is_one_at_least() -> None:
    bench = Bench(rate=1.0, burst=2)
    bench.limit.sidecars = 100
    bench.store.up = False
    assert bench.limit.take(b"") == 0.0
    assert bench.limit.take(b"") == pytest.approx(100.0, rel=0.01)


def test_a_lease_is_spent_before_it_goes_without_the_store() -> None:
    bench = Bench(rate=1000.0, burst=1000, on_failure="refuse")
    bench.spend(0.5, 500)
    leased = bench.limit.view()["leased"]
    bench.store.up = False
    assert [bench.limit.take(b"") for _ in range(leased + 1)] == [0.0] * leased + [AWAY_WAIT]


def test_leases_end_soon_after_the_store_has_gone_away() -> None:
    bench = Bench(rate=1000.0, burst=1000, on_failure="refuse")
    bench.spend(0.5, 500)
    bench.store.up = False
    bench.limit.lost()
    assert bench.limit.take(b"") == 0.0
    bench.clock.advance(GRACE)
    assert bench.limit.take(b"") == AWAY_WAIT


def test_what_was_refused_for_long_is_not_when_all_may_pass() -> None:
    bench = Bench(rate=0.01, burst=1, on_failure="allow")
    bench.ask()
    bench.grant(0, again=100.0)
    bench.store.up = False
    assert bench.limit.take(b"") > 99
    bench.limit.lost()
    assert bench.limit.take(b"") == 0.0


def test_those_who_wait_when_the_store_goes_away_are_decided() -> None:
    bench = Bench(rate=1.0, burst=1)
    waiting = [bench.ask() for _ in range(2)]
    bench.store.up = False
    bench.fail()
    assert waiting[0].told == [0.0]
    assert waiting[1].told[0] > 0
    assert bench.limit.away
    bench.store.up = True
    bench.ask()
    bench.grant()
    assert not bench.limit.away


def test_the_store_goes_away_between_two_answers() -> None:
    bench = Bench(on_failure="allow")
    waiting = [bench.ask() for _ in range(3)]
    bench.store.up = False
    bench.grant()
    assert [it.told for it in waiting] == [[0.0]] * 3
    assert bench.counts["allow"] == 2


def test_only_so_many_wait_for_one_answer() -> None:
    bench = Bench(on_failure="refuse")
    waiting = [bench.ask() for _ in range(MOST_WAITING)]
    assert bench.limit.take(b"") == AWAY_WAIT
    assert (bench.counts["refuse"], len(bench.store.asked)) == (1, 1)
    bench.grant(again=1.0)
    assert [it.told for it in waiting[:2]] == [[0.0], []]


def test_it_says_who_decides() -> None:
    bench = Bench(on_failure="allow")
    assert bench.limit.view()["shared"] == "redis"
    bench.limit.lost()
    assert bench.limit.view()["shared"] == "allow"
    bench.ask()
    bench.grant()
    assert bench.limit.view()["shared"] == "redis"


def test_a_key_may_be_no_utf8() -> None:
    bench = Bench(keyed=True)
    bench.ask("\udc80")
    assert bench.grant() == 1
    assert bench.limit.view()["keys"] == 1


def test_keys_have_buckets_of_their_own_and_are_bounded() -> None:
    bench = Bench(keyed=True, max_keys=100)
    keys = [f"k{n}" for n in range(150)]
    for key in keys:
        bench.ask(key)
        bench.grant()
    assert len(bench.limit) == 100
    assert bench.limit.view()["keys"] == 100
    long = b"x" * 10_000
    bench.ask(long)
    lease, _ = bench.store.asked[0]
    assert (lease.key, len(lease.digest)) == (lease.digest, 32)
    bench.grant(0, again=1.0)
    assert bench.limit.take(long) > 0


@pytest.mark.parametrize("length", [1, 100])
def test_an_old_key_is_the_first_to_go(length: int) -> None:
    bench = Bench(keyed=True, max_keys=2)
    for key in ("a", "b", "a", "c"):
        waits = bench.ask(key * length)
        bench.grant(0, again=0.0)
        assert waits.told
        bench.clock.advance(1.0)
    digests = [blake2b(key.encode() * length, digest_size=16).hexdigest() for key in "ac"]
    assert [it.digest for it in bench.limit._leases.values()] == digests


class Mesh:
    """Sidecars with one bucket, and a network between that takes its time and may fail."""

    def __init__(self, sidecars: int, rate: float, burst: int, seed: int, loss: float, slow: float) -> None:
        self.clock = Clock(0.0)
        self.bucket = Bucket(rate, burst)
        self.rng = random.Random(seed)
        self.loss, self.slow = loss, slow
        self.passed = [0] * sidecars
        self._todo: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self.limits = [
            SharedLimit(
                "it", rate, burst, False, self._ask, self.clock, self.rng.random, dict.fromkeys(COUNTS, 0), "refuse"
            )
            for _ in range(sidecars)
        ]

    def at(self, when: float, call: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._todo, (when, self._order, call))

    def run(self, until: float) -> None:
        while self._todo and self._todo[0][0] <= until:
            when, _, call = heapq.heappop(self._todo)
            self.clock.now = max(self.clock.now, when)
            call()
        self.clock.now = until

    def request(self, number: int) -> None:
        verdict = self.limits[number].take(b"")
        if verdict == 0.0:
            self.passed[number] += 1
        elif verdict == ASKED:
            self.limits[number].join(b"", _Passes(self, number))

    def traffic(self, number: int, rate: float, seconds: float) -> None:
        for n in range(int(rate * seconds)):
            self.at((n + self.rng.random()) / rate, lambda: self.request(number))

    def _ask(self, limit: SharedLimit, lease: Lease, tokens: int) -> bool:
        fate = self.rng.random()
        now = self.clock.now
        if fate < self.loss / 2:
            return False
        granted, again = self.bucket.take(tokens, now + self.slow / 2)
        if fate < self.loss:  # granted, and the answer is lost
            self.at(now + 0.05, lambda: limit.failed(lease))
        else:
            self.at(now + self.slow, lambda: limit.answered(lease, granted, again))
        return True


class _Passes:
    def __init__(self, mesh: Mesh, number: int) -> None:
        self._mesh, self._number = mesh, number

    def decide(self, wait: float) -> bool:
        if not wait:
            self._mesh.passed[self._number] += 1
        return True


@settings(max_examples=examples(40))
@given(
    sidecars=st.integers(1, 6),
    rate=st.floats(1, 500),
    burst=st.integers(1, 300),
    known=st.integers(1, 6),
    loads=st.lists(st.floats(0, 300), min_size=6, max_size=6),
    loss=st.sampled_from([0.0, 0.1]),
    slow=st.sampled_from([0.001, 0.02]),
    seed=st.integers(0, 1000),
)
def test_never_more_than_rate_and_burst_whatever_the_schedule(
    sidecars: int, rate: float, burst: int, known: int, loads: list[float], loss: float, slow: float, seed: int
) -> None:
    mesh = Mesh(sidecars, rate, burst, seed, loss, slow)
    for number in range(sidecars):
        mesh.limits[number].sidecars = known
        mesh.traffic(number, loads[number], 1.0)
    for step in range(1, 14):
        mesh.run(step * 0.1)
        assert sum(mesh.passed) <= mesh.bucket.granted <= rate * (mesh.clock.now + slow) + burst + 0.01


@pytest.mark.parametrize(
    "loads", [[200.0] * 8, [2000.0, 10, 10, 10, 10, 10, 10, 10], [700.0, 700, 5, 5, 0, 0, 0, 0]], ids=str
)
def test_all_of_it_is_used_however_it_is_shared_out(loads: list[float]) -> None:
    mesh = Mesh(8, 1000.0, 1000, 1, 0.0, 0.001)
    for number, load in enumerate(loads):
        mesh.limits[number].sidecars = 8
        mesh.traffic(number, load, 5.0)
    mesh.run(1.0)
    before = sum(mesh.passed)
    mesh.run(3.0)
    middle = sum(mesh.passed)
    mesh.run(5.0)
    assert (sum(mesh.passed) - middle) / 2 == pytest.approx(1000, rel=0.03), (before, middle, mesh.passed)


def test_with_less_than_the_limit_nothing_is_refused() -> None:
    mesh = Mesh(8, 1000.0, 1000, 1, 0.0, 0.001)
    for number in range(8):
        mesh.limits[number].sidecars = 8
        mesh.traffic(number, 115.0, 4.0)
    mesh.run(5.0)
    assert mesh.passed == [460] * 8
