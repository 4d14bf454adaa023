"""A rate limit that several sidecars share: tokens come from a store that all of them ask, and are spent here.

The store has one bucket for all. What it grants to a sidecar is a *lease*: tokens that nobody else gets, spent without
asking, gone after a second. A lease is as large as what was wanted in the last tenth of a second and half as much, and
all leases together are at most half of a burst; the next one is asked for when half is left, beside the traffic. Where
that would be less than two tokens (few requests, small bursts) each request is asked for by itself, and waits. So the
sum of what passes is never more than the store grants, and what lies unused is lost for a second at most.

Time is an argument or an injected clock, the store a function: :mod:`sidecar.redis.limits` has the real one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final, Protocol

from sidecar.resilience.token_bucket import KeyedBuckets

#: What :meth:`SharedLimit.take` returns when the store has been asked: :meth:`SharedLimit.join` then.
ASKED: Final = -1.0

#: Seconds over which it is counted what is wanted, and how many times as much is leased.
WINDOW: Final = 0.1
AHEAD: Final = 1.5
#: Seconds after which tokens that were not spent are gone.
LAPSE: Final = 1.0
#: Seconds for which they are still spent when the store goes away.
GRACE: Final = 0.03
#: Seconds between two questions about a key whose bucket was found empty, on average and at most.
PACE: Final = 0.05
#: Requests that wait for one answer.
MOST_WAITING: Final = 10_000
#: Seconds to come again in, for those who are refused because the store is away.
AWAY_WAIT: Final = 1.0
#: Longer keys are known by a hash: what a peer sends must not decide how much is stored.
_LONGEST_KEY: Final = 64


class Waiter(Protocol):
    """Waits for a token."""

    def decide(self, wait: float) -> bool:
        """0: it has one; else it is refused, and may come again in so many seconds. Return False if it has left."""
        ...


class Lease:
    """What one key of a limit has. ``digest`` stands for the key in the store."""

    __slots__ = (
        "asking", "digest", "expected", "key", "lapses", "low", "refused_until", "since", "tokens", "waiting", "wanted",
    )  # fmt: skip

    def __init__(self, key: bytes | str, digest: str, now: float) -> None:
        self.key = key
        self.digest = digest
        #: Tokens to spend, until when, and how many are left when more are asked for (-1: that is not done).
        self.tokens = 0
        self.lapses = 0.0
        self.low = -1
        #: Tokens that the store was asked for and has not answered yet; 0: it was not.
        self.asking = 0
        #: Before that the store has none.
        self.refused_until = 0.0
        #: Requests since then, and per :data:`WINDOW` before.
        self.wanted = 0
        self.since = now
        self.expected = 0.0
        self.waiting: deque[Waiter] = deque()


class SharedLimit:
    """``rate`` tokens per second, at most ``burst``, for all sidecars that have a limit of this ``name``; one bucket,
    or with ``keyed`` one per key, of which the ``max_keys`` last used are remembered.

    ``ask(limit, lease, tokens)`` asks the store, and returns False if it is away; else it calls :meth:`answered` or
    :meth:`failed` some time later, always. Without the store it goes as ``on_failure`` says: ``local`` (each sidecar
    has its share), ``refuse`` or ``allow``. ``counts`` has how many requests went so; ``random`` gives 0 to 1.
    """

    __slots__ = (
        "_ask", "_clock", "_leases", "_local", "_local_sidecars", "_pace", "_random", "away", "burst", "counts",
        "keyed", "max_keys", "name", "on_failure", "rate", "sidecars",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        rate: float,
        burst: int,
        keyed: bool,
        ask: Callable[[Any, Any, int], bool],
        clock: Callable[[], float],
        random: Callable[[], float],
        counts: dict[str, int],
        on_failure: str = "local",
        sidecars: int = 1,
        max_keys: int = 10_000,
    ) -> None:
        self.name = name
        self.rate = rate
        self.burst = burst
        self.keyed = keyed
        self.on_failure = on_failure
        self.max_keys = max_keys
        self.counts = counts
        #: How many share it, as last seen.
        self.sidecars = sidecars
        #: The last decision was made without the store.
        self.away = False
        self._ask = ask
        self._clock = clock
        self._random = random
        #: Less than it takes to fill the bucket, or tokens would be lost.
        self._pace = min(PACE, burst / rate / 4)
        self._leases: OrderedDict[bytes | str, Lease] = OrderedDict()
        self._local: KeyedBuckets | None = None
        self._local_sidecars = 0

    def take(self, key: bytes | str) -> float:
        """Take a token of the key's bucket: return 0.0, or the seconds until there may be one, or :data:`ASKED`."""
        now = self._clock()
        lease = self._leases.get(key)
        if lease is None:
            lease = self._lease(key, now)
        elif self.keyed:
            self._leases.move_to_end(lease.key)
        lease.wanted += 1
        tokens = lease.tokens
        if tokens:
            if now < lease.lapses:
                lease.tokens = tokens = tokens - 1
                if tokens <= lease.low:
                    self._renew(lease, now)
                return 0.0
            lease.tokens = 0
        return self._spent(lease, now)

    def join(self, key: bytes | str, waiter: Waiter) -> None:
        """Wait for the answer, behind those who do already. Only after :data:`ASKED`, at once."""
        self._lease(key, 0.0).waiting.append(waiter)

    def answered(self, lease: Lease, granted: int, again: float) -> None:
        """The store has granted so many tokens, perhaps none, and has another one in ``again`` seconds."""
        now = self._clock()
        self.away = False
        short = granted < lease.asking
        lease.asking = 0
        if now >= lease.lapses:
            lease.tokens = 0
        lease.tokens += granted
        lease.lapses = now + LAPSE
        lease.low = -1
        wait = 0.0
        if short:
            # Not in step with others: who asks first each time would get all.
            wait = max(again, self._pace * (0.5 + self._random())) + min(again, self._pace) * self._random()
            lease.refused_until = now + wait
        waiting = lease.waiting
        while waiting and lease.tokens:
            if waiting.popleft().decide(0.0):
                lease.tokens -= 1
        if not waiting:
            if not short and lease.tokens > 1:
                lease.low = lease.tokens // 2
        elif short:
            lease.waiting = deque()
            for waiter in waiting:
                waiter.decide(wait)
        elif not self._begin(lease, max(len(waiting), self._size(lease, now))):
            self.failed(lease)

    def failed(self, lease: Lease) -> None:
        """The store has not answered, or in no way that is of use."""
        lease.asking = 0
        lease.low = -1
        waiting, lease.waiting = lease.waiting, deque()
        for waiter in waiting:
            waiter.decide(self._without(lease.key))

    def lost(self) -> None:
        """The store is away: what was leased is gone soon, and what was refused is asked anew, so that it is as
        ``on_failure`` says."""
        self.away = True
        until = self._clock() + GRACE
        for lease in self._leases.values():
            lease.refused_until = 0.0
            if lease.lapses > until:
                lease.lapses = until

    def view(self) -> dict[str, Any]:
        """What it is at present: who decides, how many share it, keys, and tokens in hand."""
        now = self._clock()
        return {
            "shared": self.on_failure if self.away else "redis",
            "sidecars": self.sidecars,
            "keys": len(self._leases),
            "leased": sum([it.tokens for it in self._leases.values() if now < it.lapses]),
        }

    def __len__(self) -> int:
        return len(self._leases)

    def _lease(self, key: bytes | str, now: float) -> Lease:
        """The key's lease; when a new one finds no room, the least recently used goes, with its tokens."""
        raw = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key
        digest = blake2b(raw, digest_size=16).hexdigest()
        if len(raw) > _LONGEST_KEY:
            key = digest
        lease = self._leases.get(key)
        if lease is None:
            if len(self._leases) >= self.max_keys:
                self._leases.popitem(last=False)
            self._leases[key] = lease = Lease(key, digest, now)
        else:
            self._leases.move_to_end(key)  # take() does not find long ones
        return lease

    def _spent(self, lease: Lease, now: float) -> float:
        if lease.asking:
            return ASKED if len(lease.waiting) < MOST_WAITING else self._without(lease.key)
        if now < lease.refused_until:
            return lease.refused_until - now
        return ASKED if self._begin(lease, self._size(lease, now)) else self._without(lease.key)

    def _renew(self, lease: Lease, now: float) -> None:
        """Ask for more, beside the traffic, if there is use for more."""
        lease.low = -1
        wanted = self._size(lease, now)
        if wanted > 1 and wanted > lease.tokens and not lease.asking:
            self._begin(lease, wanted - lease.tokens)

    def _begin(self, lease: Lease, tokens: int) -> bool:
        lease.asking = tokens
        if self._ask(self, lease, tokens):
            return True
        lease.asking = 0
        return False

    def _size(self, lease: Lease, now: float) -> int:
        """How many tokens a lease is to have; 1: each request asks for itself."""
        elapsed = now - lease.since
        if elapsed >= WINDOW:
            lease.expected = lease.wanted * WINDOW / elapsed
            lease.wanted = 0
            lease.since = now
        size = int(AHEAD * max(lease.expected, float(lease.wanted)))
        most = self.burst // (2 * self.sidecars)
        return max(1, min(size, most))

    def _without(self, key: bytes | str) -> float:
        """The same as :meth:`take` while the store is away."""
        self.away = True
        self.counts[self.on_failure] += 1
        if self.on_failure == "allow":
            return 0.0
        if self.on_failure == "refuse":
            return AWAY_WAIT
        local = self._local
        if local is None or self._local_sidecars != self.sidecars:
            n = self._local_sidecars = self.sidecars
            self._local = local = KeyedBuckets(self.rate / n, max(1, self.burst // n), self._clock, self.max_keys)
        return local.take(key)
